"""A stage: the process that computes one slice of a model's layers in a ring."""
