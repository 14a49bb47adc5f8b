"""Looks after one machine: what it is and has, and the processes that run there for others."""
