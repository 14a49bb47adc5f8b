"""What a service manager such as systemd is told of an installation, and what it may ask."""
