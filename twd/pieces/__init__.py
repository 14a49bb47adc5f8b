"""Model files in checked pieces: manifests, hash trees, bitmaps, partial files, and the interface of a source."""
