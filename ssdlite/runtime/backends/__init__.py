"""What executes an exported network: one module for each runtime."""
