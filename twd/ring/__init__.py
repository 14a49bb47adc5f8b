"""What stages and speculators share to form a ring: frames, links between machines, and trust.

Which stages form a ring, and what replaces a lost stage, is decided in `twd/speculator/targets/ring.py`.
"""
