"""What stages and speculators share to form a ring: frames, links between machines, and trust."""
