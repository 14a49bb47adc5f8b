"""`twd service`."""
