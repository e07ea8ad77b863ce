"""Hold what strategies are built from: heads, memories, prototypes, statistics, losses."""
