"""What a detector costs where it runs: time by stage, memory, and average precision beside them."""
