"""API endpoints about the system: status, events, history, metrics."""
