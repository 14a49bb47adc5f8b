"""The service that remembers: what happened to each job, and which jobs ended lately."""
