"""Others write whole answers, the target judges them."""
