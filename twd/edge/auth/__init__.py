"""Which clients may use the API, and how much."""
