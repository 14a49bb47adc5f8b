"""Measuring: what speculation brings here, and what it would bring with another drafter."""
