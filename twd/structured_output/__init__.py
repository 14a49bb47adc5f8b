"""Rules of a request for its text, applied while decoding: grammars and forced tokens."""
