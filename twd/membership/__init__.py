"""Which machines belong to an installation: join tokens, keys of machines, and how a machine joins and leaves."""
