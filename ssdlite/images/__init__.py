"""Pictures and videos in, drawings out. Needs no torch."""
