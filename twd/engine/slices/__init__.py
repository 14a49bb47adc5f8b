"""One slice of a model's layers in llama.cpp."""
