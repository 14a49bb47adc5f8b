"""One running installation: which processes it needs, started and kept alive."""
