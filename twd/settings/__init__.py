"""Settings: the model of them, and reading them from files and variables."""
