"""Measure how far a product with rounded operands is off: by the angle, or by weighted squares."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F


class Deviation(ABC):
    """A distance from the output (..., O) that a product has in float."""

    @abstractmethod
    def whole(self, output: Tensor) -> Tensor:
        """Return the distance of another output, ()."""

    @abstractmethod
    def along(self, output: Tensor, axis: int) -> Tensor:
        """Return the distance in each slice of one axis; the others have length 1."""


class Angle(Deviation):
    """1 - cosine: of each row on the average, or of each slice as a whole."""

    def __init__(self, exact: Tensor) -> None:
        """Measure from an exact output."""
        self._exact = exact
        self._squares = exact.square()

    def whole(self, output: Tensor) -> Tensor:
        """Return 1 - cosine of the last axis, on the average."""
        return 1 - F.cosine_similarity(output, self._exact, dim=-1).mean()

    def along(self, output: Tensor, axis: int) -> Tensor:
        """Return 1 - cosine over all other axes."""
        others = _others(output, axis)
        dot = (output * self._exact).sum(others, keepdim=True)
        squares = output.square().sum(others, keepdim=True) * self._squares.sum(others, keepdim=True)
        return 1 - dot / squares.sqrt().clamp_min(1e-12)


class WeightedSquares(Deviation):
    """The sum of squared errors, each with a weight."""

    def __init__(self, exact: Tensor, weights: Tensor) -> None:
        """Measure from an exact output; the weights have its shape."""
        self._exact, self._weights = exact, weights

    def whole(self, output: Tensor) -> Tensor:
        """Return the sum of all."""
        return self._each(output).sum()

    def along(self, output: Tensor, axis: int) -> Tensor:
        """Return the sum in each slice."""
        return self._each(output).sum(_others(output, axis), keepdim=True)

    def _each(self, output: Tensor) -> Tensor:
        return (output - self._exact).square_().mul_(self._weights)


def _others(output: Tensor, axis: int) -> list[int]:
    return [other for other in range(output.ndim) if other != axis % output.ndim]
