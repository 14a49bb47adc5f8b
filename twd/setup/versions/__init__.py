"""Versions of twd side by side: each in a folder of its own, the current one a link."""
