"""GGUF files: read quickly, checked before llama.cpp sees them."""
