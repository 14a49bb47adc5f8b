"""The memory of this machine: limits, page cache, how files are loaded."""
