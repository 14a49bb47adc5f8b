"""The service that carries model files from machine to machine."""
