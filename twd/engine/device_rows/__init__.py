"""Logits that stay on the device that computed them, where that is faster than bringing them home."""
