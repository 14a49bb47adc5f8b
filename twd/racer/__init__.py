"""Drafters vote: what enough of them agree on may stand without the target."""
