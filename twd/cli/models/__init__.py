"""`twd start`, `stop`, `swap`, `load` and `reclaim`."""
