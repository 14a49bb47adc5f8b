"""`twd bench`."""
