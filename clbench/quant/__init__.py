"""Compute and store weights in fewer bits: one quantiser a file, and the layers that use them."""
