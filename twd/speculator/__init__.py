"""The speculator: one loaded target; it alone decides the text, drafts only make it faster."""
