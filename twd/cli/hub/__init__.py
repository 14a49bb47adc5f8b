"""`twd pull` and `twd inspect`: models on hubs."""
