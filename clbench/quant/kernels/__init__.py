"""Multiply with low-bit weights by the processor's own instructions, written in C.

``c/`` holds the kernels, a file or two for each instruction set; ``compiling.py`` makes a library of them
when clbench is installed where a C compiler is. Without them, or on another processor, a weight is expanded
and torch multiplies.

Source: J. Wei et al., T-MAC (EuroSys 2025, arXiv 2407.00088), the look-up tables of four activations.

Differs from the paper:
- Tables have all 16 entries, not one half of which the other is the negative, and are summed exactly in
  integers: its fast aggregation, which averages bytes, is biased.
- Codes lie in orders of our own, a multiplication of codes by activations in bytes stands beside the look-up,
  and which of them is used is measured.
"""
