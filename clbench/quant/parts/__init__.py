"""Hold what several quantisers are made of: grids, roundings, searches, and the places they go to."""
