"""Search how an operand of a product is rounded so that the product changes least.

A product a f^T has two operands whose roundings are searched by turns: each while the other one is rounded as
was found last.

Shape letters: ... batches (groups, images, heads), R rows and I columns of an operand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from clbench.quant.parts.rounding import Rounding


@dataclass(frozen=True)
class Effort:
    """How hard is searched, and in how much memory."""

    candidates: int  # of each step, a multiple of 16
    steps: int  # 1: only those of the first
    num_values: int  # that are looked at at once


class Searched(ABC):
    """An operand (..., R, I), as it is and as it is rounded so far."""

    def __init__(self, values: Tensor, bits: int, effort: Effort) -> None:
        """Take the operand in float."""
        self.values, self.bits, self.effort = values, bits, effort

    def look_at(self, some: Tensor, axis: int) -> None:
        """Search on a part of the operand from now on, by its indices along an axis."""
        self.values = self.values.index_select(axis, some.to(self.values.device))

    @property
    @abstractmethod
    def rounded(self) -> Tensor:
        """The operand rounded."""

    @abstractmethod
    def search(self, other: Tensor, other_rounded: Tensor) -> None:
        """Choose anew, by the error of the product with another operand that is rounded."""

    @abstractmethod
    def rounding(self) -> Rounding:
        """Return what was found."""


def by_turns(first: Searched, second: Searched, rounds: int) -> None:
    """Search both operands of a product, the first one first."""
    for _ in range(rounds):
        first.search(second.values, second.rounded)
        second.search(first.values, first.rounded)
