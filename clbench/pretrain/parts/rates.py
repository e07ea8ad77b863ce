"""Let a learning rate fall while a course goes on."""

from __future__ import annotations

import math


def cosine(first: float, last: float, *, done: float) -> float:
    """Return the rate when a share of the steps is ``done``, in [0, 1]: half a cosine from first to last."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
