"""What a request demands of the text while it is decoded: grammars, forced tokens."""
