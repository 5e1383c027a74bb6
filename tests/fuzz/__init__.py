"""Hostile input: ``make fuzz``, or ``python -m tests.fuzz --help``. docs/reliability.md says what each area does."""
