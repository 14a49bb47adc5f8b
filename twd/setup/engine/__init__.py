"""How llama.cpp is built for twd, and which build is there."""
