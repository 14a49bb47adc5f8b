"""What stages and speculators share to make a ring: frames, links between them, trust."""
