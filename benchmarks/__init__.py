"""Ours against the strongest native PyTorch: ``python -m benchmarks.run --help``."""
