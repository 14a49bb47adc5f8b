"""The supervisor of one installation: knows which processes it needs, starts them, keeps them alive."""
