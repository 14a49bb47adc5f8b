"""`twd gate`: the quality gate."""
