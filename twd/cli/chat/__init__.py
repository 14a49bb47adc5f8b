"""`twd chat`."""
