"""`twd tune`."""
