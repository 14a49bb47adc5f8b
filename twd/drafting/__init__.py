"""Code that drafters and the speculator both need: repeated text, and records of how often drafts were right."""
