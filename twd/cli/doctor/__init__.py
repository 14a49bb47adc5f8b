"""`twd doctor`: each kind of finding has a name in `finding_ids.py`; the other files are its checks, by subject."""
