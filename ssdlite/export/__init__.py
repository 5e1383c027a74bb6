"""From a detector to files that phones run, and the proof that they give the same."""
