"""Clients for other people's servers."""
