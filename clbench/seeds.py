"""Give every purpose its own random generator, all derived from one seed.

A generator is a function of (seed, purpose, position), not of what was drawn before: a strategy that draws
one more number changes no data order, and a resumed run draws what the undisturbed one would have drawn.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Seeds:
    """The tree of generators that grows from one seed."""

    seed: int

    def derive(self, purpose: str, *position: int) -> int:
        """Return the 63-bit seed of a purpose at a position such as (task, epoch, step)."""
        text = "/".join([str(self.seed), purpose, *map(str, position)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, purpose: str, *position: int) -> torch.Generator:
        """Return a torch generator on the CPU."""
        return torch.Generator().manual_seed(self.derive(purpose, *position))

    def numpy(self, purpose: str, *position: int) -> np.random.Generator:
        """Return a numpy generator."""
        return np.random.default_rng(self.derive(purpose, *position))

    def seed_torch(self, *position: int) -> None:
        """Seed torch's global generators, which dropout and stochastic depth draw from."""
        seed = self.derive("torch", *position)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes longer than drawing a batch
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch declares no types for it
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Let torch's global CPU generator start from ``seed`` for a while, then put it back where it was.

    For code of others that draws from it, such as the initialisation of layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
        yield


@contextmanager
def forked_everywhere(seed: int) -> Iterator[None]:
    """Let the generators of torch's CPU, numpy and Python start from ``seed``, and put them back after."""
    in_python, in_numpy = random.getstate(), np.random.get_state()
    with forked(seed):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(in_python)
            np.random.set_state(in_numpy)
