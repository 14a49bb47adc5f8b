"""Members write whole answers, and the target judges them."""
