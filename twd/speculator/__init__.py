"""The speculator: one loaded target, which alone decides the text; drafts only make it faster."""
