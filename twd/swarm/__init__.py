"""The service that copies model files between machines."""
