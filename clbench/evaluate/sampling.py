"""Count the operations of one of many like pieces of work, and take the others to be like it.

Counting every operation would make small steps several times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clbench.evaluate.flops import counter


class Sampling:
    """Puts FLOPs on an account, piece by piece: ``begin``, the work, ``end``; the first piece is counted.

    Work that is begun inside other work belongs to that.
    """

    def __init__(self, put: Callable[[float], None], known: Callable[[], float]) -> None:
        """Take the account, and what tells the FLOPs that others have put on theirs meanwhile."""
        self._put, self._known = put, known
        self._per_image: float | None = None
        self._mode: Any = None  # torch's counter, whose methods have no types
        self._before = 0.0
        self._depth = 0

    def start_over(self) -> None:
        """Count the next piece anew: it is not like those before."""
        if not self._depth:
            self._per_image = None

    def begin(self) -> None:
        """Begin a piece."""
        self._depth += 1
        if self._depth == 1 and self._per_image is None:
            self._before = self._known()
            self._mode = counter()
            self._mode.__enter__()

    def end(self, num_images: int) -> None:
        """End a piece of work on so many images."""
        self._depth -= 1
        if self._depth:
            return
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.__exit__(None, None, None)
            flops = mode.get_total_flops() - (self._known() - self._before)
            self._per_image = max(0.0, flops) / num_images
        self._put((self._per_image or 0.0) * num_images)

    def stop(self) -> None:
        """Stop counting, in the midst of a piece if need be."""
        self._depth, self._per_image = 0, None
        if self._mode is not None:
            with suppress(RuntimeError):
                self._mode.__exit__(None, None, None)
            self._mode = None
