"""Define who is told what features cost: a run's meter, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Account(Protocol):
    """What counts the operations that features take."""

    def encoded(
        self, num_images: int, compute: Callable[[], Tensor], *, is_known: bool
    ) -> tuple[Tensor, float | None]:
        """Call what computes the features of so many images; return them and, if counted, their FLOPs."""

    def charge(self, flops: float) -> None:
        """Put FLOPs on the account of whoever asks for features now."""


class Unaccounted:
    """Counts nothing."""

    def encoded(
        self, num_images: int, compute: Callable[[], Tensor], *, is_known: bool
    ) -> tuple[Tensor, float | None]:
        """Compute the features."""
        return compute(), 0.0

    def charge(self, flops: float) -> None:
        """Let it go."""
