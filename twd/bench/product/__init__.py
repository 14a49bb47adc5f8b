"""Measuring the product as users start it."""
