"""Measuring a loaded model, and remembering it."""
