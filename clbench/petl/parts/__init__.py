"""Hold what several modules are made of: their branches, how they are drawn, where they fit."""
