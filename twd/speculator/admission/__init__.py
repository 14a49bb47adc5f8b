"""What happens to a request before it reaches the core of the speculator."""
