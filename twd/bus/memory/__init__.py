"""The bus inside one process, for tests and trials."""
