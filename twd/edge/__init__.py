"""The edge: HTTP in front, the bus behind; a request becomes a job, its events become an answer."""
