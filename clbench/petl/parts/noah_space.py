"""Describe what NOAH chooses among: a number of prompts, a LoRA rank and an adapter width for every block.

Each of the three has a depth of its own, a quarter, half, three quarters or all of the blocks. The blocks up
to there get 1, 5 or 10, those behind it none. Written ``p=10,5,1/r=5,5/h=1``: prompts, ranks and widths, from
the first block on.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from clbench.errors import UserError

T = TypeVar("T")
SIZES = (1, 5, 10)
TEXT = re.compile("/".join(rf"{kind}=((?:\d+(?:,\d+)*)?)" for kind in "prh"))


class ArchitectureError(UserError, ValueError):
    """An architecture that is none, or does not fit the backbone or the limit."""


@dataclass(frozen=True)
class Subnet:
    """One architecture: sizes from the first block on; a block beyond the last size has none."""

    prompts: tuple[int, ...]
    ranks: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Subnet:
        """Read what ``str`` wrote; ArchitectureError where it is something else."""
        match = TEXT.fullmatch(text)
        if match is None:
            raise ArchitectureError(f"{text!r} is no architecture; one looks like p=10,5,1/r=5,5/h=1")
        return cls(*(tuple(map(int, sizes.split(","))) if sizes else () for sizes in match.groups()))

    def __str__(self) -> str:
        """Return the text that ``parse`` reads."""
        lists = zip("prh", self.lists, strict=True)
        return "/".join(f"{kind}={','.join(map(str, sizes))}" for kind, sizes in lists)

    @property
    def lists(self) -> tuple[tuple[int, ...], ...]:
        """The prompts, the ranks and the widths."""
        return dataclasses.astuple(self)

    def at(self, index: int) -> tuple[int, ...]:
        """Return the number of prompts, the rank and the width at a block."""
        return tuple(sizes[index] if index < len(sizes) else 0 for sizes in self.lists)

    def num_parameters(self, width: int) -> int:
        """Return how many parameters it takes in blocks of ``width`` channels."""
        adapters = sum((2 * width + 1) * size + width for size in self.widths if size)
        return width * sum(self.prompts) + 4 * width * sum(self.ranks) + adapters


@dataclass(frozen=True)
class Space:
    """All architectures for a backbone of ``num_blocks`` blocks of ``width`` channels."""

    num_blocks: int
    width: int

    @property
    def depths(self) -> list[int]:
        """How many blocks may be adapted: 3, 6, 9 or 12 of 12."""
        return sorted({math.ceil(self.num_blocks * quarters / 4) for quarters in (1, 2, 3, 4)})

    def sample(self, generator: torch.Generator | None = None) -> Subnet:
        """Draw an architecture, from torch's global generator if none is given."""
        return Subnet(*(drawn_sizes(pick(self.depths, generator), generator) for _ in range(3)))

    def fits(self, subnet: Subnet, max_parameters: int) -> bool:
        """Tell whether an architecture keeps to a limit; 0 is no limit."""
        return not max_parameters or subnet.num_parameters(self.width) <= max_parameters

    def largest(self, max_parameters: int) -> Subnet:
        """Return the largest architecture under a limit among those with one size each; 0 is no limit."""
        lists = [(size,) * depth for depth in self.depths for size in SIZES]
        uniform = [Subnet(*three) for three in itertools.product(lists, repeat=3)]
        fitting = [subnet for subnet in uniform if self.fits(subnet, max_parameters)]
        if not fitting:
            least = min(subnet.num_parameters(self.width) for subnet in uniform)
            raise ArchitectureError(
                f"max_parameters: {max_parameters} are too few; the least here are {least}"
            )
        return max(fitting, key=lambda subnet: subnet.num_parameters(self.width))


def drawn_sizes(depth: int, generator: torch.Generator | None) -> tuple[int, ...]:
    """Draw a size for each of the first ``depth`` blocks."""
    return tuple(pick(SIZES, generator) for _ in range(depth))


def pick(options: Sequence[T], generator: torch.Generator | None) -> T:
    """Draw one of the options."""
    return options[int(torch.randint(len(options), (), generator=generator))]
