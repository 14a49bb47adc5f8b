"""`twd upgrade` and `twd rollback`."""
