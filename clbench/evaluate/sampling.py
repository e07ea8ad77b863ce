"""Count the operations of one of many like pieces of work, and take the others to be like it.

Counting every operation would make small steps several times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from clbench.evaluate.flops import Counter


class Sampling:
    """Puts FLOPs on an account, piece by piece: ``begin``, the work, ``end``; the first piece is counted.

    Work that is begun inside other work belongs to that.
    """

    def __init__(self, put: Callable[[float], None], known: Callable[[], float]) -> None:
        """Take the account, and what tells the FLOPs that others have put on theirs meanwhile."""
        self._put, self._known = put, known
        self._per_image: float | None = None
        self._counting = ExitStack()
        self._counter: Counter | None = None  # of the piece that is being counted
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
            self._counter = self._counting.enter_context(Counter())

    def end(self, num_images: int) -> None:
        """End a piece of work on so many images."""
        self._depth -= 1
        if self._depth:
            return
        if self._counter is not None:
            self._counting.close()
            counter, self._counter = self._counter, None
            flops = counter.total - (self._known() - self._before)
            self._per_image = max(0.0, flops) / num_images
        self._put((self._per_image or 0.0) * num_images)

    def stop(self) -> None:
        """Stop counting, in the midst of a piece if need be."""
        self._depth, self._per_image = 0, None
        self._counting.close()
        self._counter = None
