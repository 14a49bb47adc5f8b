"""Another server as a drafter."""
