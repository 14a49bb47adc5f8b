"""Models over llama.cpp's RPC."""
