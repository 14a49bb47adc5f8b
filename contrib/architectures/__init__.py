"""Tries every architecture of which there is a tiny model, and writes down what was found."""
