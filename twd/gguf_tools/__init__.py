"""Reads and cuts GGUF files, and checks them before llama.cpp loads them."""
