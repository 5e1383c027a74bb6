"""SSDs of the TensorFlow Object Detection API, from checkpoints and frozen graphs."""
