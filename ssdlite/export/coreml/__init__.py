"""Detectors as Core ML packages: the program, what stands behind it for Vision, and the files."""
