"""What brings twd onto a machine and keeps it there: services of the system, versions, engine builds."""
