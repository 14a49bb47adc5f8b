"""Other programs' servers: probed, then used as targets or as drafters."""
