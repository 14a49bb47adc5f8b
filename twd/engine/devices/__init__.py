"""The devices that llama.cpp computes on."""
