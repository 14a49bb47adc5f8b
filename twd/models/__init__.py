"""Models that come from outside: SPECs, the catalogue, clients of hubs, and what local stores have already."""
