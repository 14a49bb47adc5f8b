"""HTTP: reads requests and writes replies."""
