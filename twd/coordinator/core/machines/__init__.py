"""What machines offer: devices, computers, hosts without an agent."""
