"""The parts of one forward pass: windows, batches, sampling, verification. Does not use llama.cpp."""
