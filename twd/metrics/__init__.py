"""The metrics service: keeps the events of each job, the history of ended jobs, and counters."""
