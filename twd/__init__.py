"""twd: one OpenAI-compatible endpoint out of a drawer full of unlike machines."""

__version__ = "0.1.0"
