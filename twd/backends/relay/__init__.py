"""Another server as a model: jobs are passed through."""
