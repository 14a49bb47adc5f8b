"""Servers that speak the wire formats of real ones, with a toy model inside and faults on demand."""
