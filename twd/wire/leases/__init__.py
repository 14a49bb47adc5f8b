"""What each service tells of itself in its lease: one struct for each service, and how others read it."""
