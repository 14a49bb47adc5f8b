"""Drafters: they hear a session open, run ahead of it, and never wait; wrong or late, they cost no correctness."""
