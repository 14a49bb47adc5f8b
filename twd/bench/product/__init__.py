"""Benchmarks of the product as users start it."""
