"""Files from hubs: of several machines one reads, and all share what came."""
