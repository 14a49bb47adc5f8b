"""How a model rolls back to an earlier token: by removing KV cells, by snapshots of its state, or by checkpoints."""
