"""Mixtures of experts: what is in a file, which experts are used, and where they should lie."""
