"""Finding a tolerance on recorded answers, with exact bounds."""
