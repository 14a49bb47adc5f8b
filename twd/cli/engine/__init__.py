"""`twd engine`."""
