"""twd as a service of the system: units of systemd, jobs of launchd."""
