"""Meet Avalanche both ways: its benchmarks in, its strategies in its own loop, our metrics in theirs."""
