"""The drafters of one speculator."""
