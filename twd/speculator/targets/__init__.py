"""What a speculator decodes with: a model here, over RPC, or over a ring."""
