"""The coordinator's decisions. No clock, no bus."""
