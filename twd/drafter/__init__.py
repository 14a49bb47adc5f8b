"""Drafters: they draft ahead of open sessions and never wait; a wrong or late draft never changes the text."""
