"""Another program's server as a drafter."""
