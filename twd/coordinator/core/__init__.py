"""The coordinator's decisions, as functions of their arguments: no clock, no bus."""
