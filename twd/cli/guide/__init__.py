"""`twd guide`."""
