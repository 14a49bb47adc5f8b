"""The targets of a speculator: a model in this process, over RPC, or over a ring."""
