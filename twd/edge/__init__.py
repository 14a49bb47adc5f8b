"""The edge: HTTP for clients, the bus behind it. A request becomes a job, and the job's events become the answer."""
