"""Run many runs: see which of them are there already, and do the others, several at a time."""
