"""What stands behind a figure: which objects are found, missed and confused, and what to do about it. No torch."""
