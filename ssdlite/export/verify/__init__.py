"""The proof that an exported file gives what PyTorch gave, and what explains it where it does not."""
