"""What is in a data set, what is wrong with it, and which anchors it needs."""
