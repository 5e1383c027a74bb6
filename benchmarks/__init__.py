"""What docs/performance.md quotes: ``python -m benchmarks``."""
