"""Count the operations of one of many like pieces of work, and take the others to be like it.

Counting every operation would make small steps several times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass


@dataclass
class Counted:
    """The operations of a piece of work, once it has ended."""

    flops: int = 0


class Sampling:
    """Puts FLOPs on an account, piece by piece: ``begin``, the work, ``end``; the first piece is counted.

    Work that is begun inside other work belongs to that.
    """

    def __init__(
        self, put: Callable[[float], None], counting: Callable[[], AbstractContextManager[Counted]]
    ) -> None:
        """Take the account, and the context that counts the operations in it."""
        self._put, self._new_counting = put, counting
        self._per_image: float | None = None
        self._counting = ExitStack()
        self._counted: Counted | None = None  # of the piece that is being counted
        self._depth = 0

    def start_over(self) -> None:
        """Count the next piece anew: it is not like those before."""
        if not self._depth:
            self._per_image = None

    def begin(self) -> None:
        """Begin a piece."""
        self._depth += 1
        if self._depth == 1 and self._per_image is None:
            self._counted = self._counting.enter_context(self._new_counting())

    def end(self, num_images: int) -> None:
        """End a piece of work on so many images."""
        self._depth -= 1
        if self._depth:
            return
        if self._counted is not None:
            self._counting.close()
            self._per_image = self._counted.flops / num_images
            self._counted = None
        self._put((self._per_image or 0.0) * num_images)

    def stop(self) -> None:
        """Stop counting, in the midst of a piece if need be."""
        self._depth, self._per_image = 0, None
        self._counting.close()
        self._counted = None
