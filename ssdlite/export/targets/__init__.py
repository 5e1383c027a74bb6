"""What exported files are for: one module for each runtime."""
