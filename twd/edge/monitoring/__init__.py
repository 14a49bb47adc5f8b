"""What the API tells of the system: status, events, history, metrics."""
