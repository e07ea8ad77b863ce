"""Count the operations of training steps by what their batches really hold.

Counting every operation would make small steps several times slower, so a step is counted when its batch
holds what no batch of the epoch has held before, such as more replayed images while a memory fills. Others
take what the like of them took. What a step takes may also change with the task and, where layers are opened
by and by, with the epoch: both begin anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from clbench.evaluate.meter import Meter

PARTS = ("forward", "backward")  # what leads to the loss, and what follows from it


class StepFlops:
    """Puts the FLOPs of one step after another on the account of training: ``begin``, the parts, ``end``."""

    def __init__(self, meter: Meter) -> None:
        """Know no step yet."""
        self._meter = meter
        self._moment: list[int] = []  # the task and the epoch
        self._known: dict[str, list[int]] = {}  # of each part, by what a batch held
        self._usual: dict[str, str] = {}  # what batches of a size hold, once two in a row held the same
        self._spent: list[int] | None = None  # of each part of the step that goes on; None: it is not counted

    def begin(self, moment: Sequence[int], num_new: int) -> None:
        """Begin a step on so many new images, in a task and an epoch."""
        if self._moment != [*moment]:
            self._moment, self._known, self._usual = [*moment], {}, {}
        self._spent = None if str(num_new) in self._usual else [0] * len(PARTS)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the operations of the block, if those of the step are counted."""
        if self._spent is None:
            yield
            return
        with self._meter.counting() as counted:
            yield
        self._spent[PARTS.index(name)] += counted.flops

    def end(self, num_new: int, replayed: Sequence[int]) -> None:
        """End a step: say how many new images it had, and how many a memory gave each time it was asked."""
        size, held = str(num_new), " ".join(map(str, [num_new, *replayed]))
        if self._spent is not None:
            is_same = self._known.get(held) == self._spent
            self._known[held] = self._spent
            if is_same or not replayed:
                self._usual[size] = held
        elif held in self._known:
            self._spent = self._known[held]
        else:  # it was expected to be like those before it: the next one is counted again
            usual = self._usual.pop(size)
            share = (num_new + sum(replayed)) / sum(map(int, usual.split()))
            self._spent = [round(flops * share) for flops in self._known[usual]]
        self._put(self._spent, num_new)

    def state(self) -> dict[str, Any]:
        """Return what is known, for a checkpoint."""
        return {"moment": self._moment, "known": self._known, "usual": self._usual}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self._moment, self._known, self._usual = state["moment"], state["known"], state["usual"]

    def _put(self, spent: Sequence[int], num_new: int) -> None:
        self._meter.put("train", float(sum(spent)))
        for name, flops in zip(PARTS, spent, strict=True):
            self._meter.flops[f"train_{name}_per_image"] = flops / num_new
        self._meter.flops["train_per_image"] = sum(spent) / num_new
