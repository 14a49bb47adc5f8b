"""Experts that do not all fit in memory: read from the model's file just before they are computed."""
