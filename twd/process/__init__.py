"""Starts, watches and stops processes of this machine, and ties them to their parent."""
