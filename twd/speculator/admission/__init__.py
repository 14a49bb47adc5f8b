"""Requests on their way into the speculator."""
