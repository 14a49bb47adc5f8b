"""The vocabulary: every event, id, subject and failure code. Only msgspec and the standard library."""
