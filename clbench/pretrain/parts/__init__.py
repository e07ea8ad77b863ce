"""Hold what several courses are made of: read-outs, mixing, rates."""
