"""Chat templates, and what models write: thoughts, text."""
