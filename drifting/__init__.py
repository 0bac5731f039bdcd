"""Drifting Models (arXiv 2602.04770): the method as pure functions on arrays."""
