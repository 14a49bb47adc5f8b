"""llama.cpp in this process: models, vocabularies, contexts, the target."""
