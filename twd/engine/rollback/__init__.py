"""How a model goes back to an earlier token: by its cells, by snapshots of its state, or by saved checkpoints."""
