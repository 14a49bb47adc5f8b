"""What `twd up` runs: one installation with its broker, its processes and the files that tell of it."""
