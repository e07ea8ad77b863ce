"""Say what a run is and keep what it leaves: its spec, its record, and who hears of it."""
