"""Trained heads that guess the next tokens from the hidden states of the target."""
