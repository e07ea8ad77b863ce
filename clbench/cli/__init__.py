"""Talk to the terminal: what is typed in, what is printed."""
