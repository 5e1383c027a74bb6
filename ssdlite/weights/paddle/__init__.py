"""Detectors of PaddleDetection, from PaddlePaddle's own files."""
