"""Look at what comes from outside before it is used: files, numbers, text, and somebody else's code."""
