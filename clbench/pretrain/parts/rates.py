"""Let a learning rate change while a course goes on."""

from __future__ import annotations

import math

BATCH_OF_RATE = 512  # images that a learning rate is given for
FIRST_RATE, LEAST_RATE = 1e-6, 1e-5  # where the warm-up begins, and where the cosine ends


def for_batch(rate: float, batch_size: int) -> float:
    """Return the rate for batches of another size than 512: in proportion, as DeiT has it."""
    return rate * batch_size / BATCH_OF_RATE


def cosine(first: float, last: float, *, done: float) -> float:
    """Return the rate when a share of the steps is ``done``, in [0, 1]: half a cosine from first to last."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def warmed(highest: float, *, step: int, num_steps: int, warm_up: int) -> float:
    """Return the rate of a step (0-based): a line from 1e-6, then what a cosine over all steps has there."""
    if step < warm_up:
        return FIRST_RATE + (highest - FIRST_RATE) * step / warm_up
    return cosine(highest, min(LEAST_RATE, highest), done=step / num_steps)
