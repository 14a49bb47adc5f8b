"""`twd doctor`."""
