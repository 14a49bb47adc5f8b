"""Addresses, ports and TCP connections."""
