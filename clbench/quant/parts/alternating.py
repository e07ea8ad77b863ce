"""Search for the roundings of a product's two operands in turns, each by what it does to the output.

While one is searched for, the other is rounded as was chosen last. Of candidates that are equally good the
first is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from clbench.quant.parts.even_grids import symmetric
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform

PARTS = 100  # that the stretch of candidates is cut into

Kind = TypeVar("Kind", bound=Rounding, covariant=True)
First = TypeVar("First", bound=Rounding)
Second = TypeVar("Second", bound=Rounding)
Errors = Callable[[Tensor], Tensor]  # of an output: as many as there are grids, of the scales' shape
Multiply = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Operand(Generic[Kind]):
    """What is multiplied, and the roundings to choose from: one a point."""

    values: Tensor
    start: Kind
    points: Tensor  # (C,)
    rounding: Callable[[Tensor], Kind]  # at one point for all, or at points of the errors' shape
    errors: Errors


def alternated(
    first: Operand[First], second: Operand[Second], multiply: Multiply, rounds: int
) -> tuple[First, Second]:
    """Return the roundings of both operands of ``multiply(first, second)``."""
    one, other = first.start, second.start
    for _ in range(rounds):
        one = best(first, _against(other.rounded(second.values), multiply))
        other = best(second, _after(one.rounded(first.values), multiply))
    return one, other


def best(operand: Operand[First], output_of: Callable[[Tensor], Tensor]) -> First:
    """Return the best rounding of an operand; ``output_of`` is what the product makes of it rounded."""
    rounded = (operand.rounding(point).rounded(operand.values) for point in operand.points)
    errors = torch.stack([operand.errors(output_of(values)) for values in rounded])
    return operand.rounding(operand.points[errors.argmin(dim=0)])


def scaled(values: Tensor, scale: Tensor, bits: int, points: Tensor, errors: Errors) -> Operand[Uniform]:
    """Return an operand on symmetric grids, whose points are shares of a scale."""
    return Operand(
        values,
        symmetric(scale, bits),
        points.to(values),
        lambda share: symmetric(scale * share, bits),
        errors,
    )


def shares(lowest: float, highest: float) -> Tensor:
    """Return lowest + i (highest - lowest) / PARTS for i in 0..PARTS, the nearest to 1 first."""
    between = torch.linspace(lowest, highest, PARTS + 1)
    return between[(between - 1).abs().argsort(stable=True)]


def _against(second: Tensor, multiply: Multiply) -> Callable[[Tensor], Tensor]:
    return lambda first: multiply(first, second)


def _after(first: Tensor, multiply: Multiply) -> Callable[[Tensor], Tensor]:
    return lambda second: multiply(first, second)
