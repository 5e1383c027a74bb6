"""Annotated pictures on disk, and the way from there to a batch."""
