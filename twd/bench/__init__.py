"""Benchmarks: how much speculation brings on this system, and what it would bring with another drafter."""
