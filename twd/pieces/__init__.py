"""Models in checked pieces: manifests, hash trees, bitmaps, partial files, and what a source of bytes is."""
