"""The speculator's decisions. No clock, no thread, no bus."""
