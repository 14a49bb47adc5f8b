"""`twd deploy`: twd on other machines, by ssh."""
