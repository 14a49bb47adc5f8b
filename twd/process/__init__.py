"""Processes of this machine: started, watched, tied to their parent, ended."""
