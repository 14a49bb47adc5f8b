"""Commands by which machines join an installation and leave it."""
