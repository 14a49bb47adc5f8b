"""llama.cpp in this process: model, vocabulary, chat templates, decoding, pick."""
