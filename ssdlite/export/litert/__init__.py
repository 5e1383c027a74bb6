"""LiteRT (TensorFlow Lite) files, written directly from the exported ONNX graph."""
