"""Serves another program's server as a model: jobs are relayed to it."""
