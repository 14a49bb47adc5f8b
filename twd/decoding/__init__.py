"""What happens in and around one forward pass: windows, batches, sampling, verification. No llama.cpp."""
