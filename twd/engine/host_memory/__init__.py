"""The memory of this machine: limits, page cache, and how model files are loaded."""
