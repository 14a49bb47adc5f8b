"""HTTP: reading requests, writing replies."""
