"""Hold, transform and cut up images."""
