"""SSDs in TensorFlow Lite files."""
