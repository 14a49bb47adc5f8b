"""Pools as the registry shows them."""
