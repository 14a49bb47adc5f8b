"""`twd distribute`."""
