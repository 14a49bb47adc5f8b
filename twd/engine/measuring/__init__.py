"""Measures a loaded model, and keeps the measurements."""
