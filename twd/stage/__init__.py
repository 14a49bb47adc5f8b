"""A stage: one slice of a model's layers, at work in a ring."""
