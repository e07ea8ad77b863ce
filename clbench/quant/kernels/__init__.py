"""Multiply with low-bit weights by the processor's own instructions, written in C.

``c/`` holds the kernels, a file or two for each instruction set; ``compiling.py`` makes a library of them
when clbench is installed where a C compiler is. Without them, or on another processor, a weight is expanded
and torch multiplies: the same, slower.
"""
