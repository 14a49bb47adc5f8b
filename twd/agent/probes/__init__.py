"""Probes: each reads one part of this machine's hardware."""
