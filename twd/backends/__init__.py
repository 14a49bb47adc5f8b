"""Other people's servers: asked what they can do, then used as targets or as drafters."""
