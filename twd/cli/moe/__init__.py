"""`twd moe`: mixtures of experts."""
