"""Training a detector: options, setup, the loop, the run folder, fine-tuning."""
