"""Models that are computed over llama.cpp's RPC."""
