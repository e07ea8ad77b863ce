"""Hold the losses that several strategies share, one a file."""
