"""Measuring a ring of local stages."""
