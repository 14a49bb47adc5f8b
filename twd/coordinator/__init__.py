"""Decides what runs where: wanted and observed in, one next action out."""
