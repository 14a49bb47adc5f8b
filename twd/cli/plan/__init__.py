"""`twd plan`."""
