"""`twd init`."""
