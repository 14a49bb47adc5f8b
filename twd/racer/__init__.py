"""Drafters vote: tokens that enough of them agree on may be accepted without the target."""
