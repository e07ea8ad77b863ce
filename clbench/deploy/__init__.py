"""Use what a run has learnt: load it, ask it, let it learn on, and ship it."""
