"""Calls of tools as models write them: read as they come, and held to the tools' schemas."""
