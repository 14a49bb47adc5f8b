"""`twd swarm` and `twd manifest`."""
