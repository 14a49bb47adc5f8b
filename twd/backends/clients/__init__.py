"""Clients for other programs' servers."""
