"""Which layers go on which devices."""
