"""Count the operations of predictions, again only where what they depend on has changed.

Each evaluation's first batch is counted. What one image takes is counted apart, twice: with nothing computed
beforehand, and beside the cache. Both depend on the shapes of the strategy's parts; should anything else
matter, the first batch shows it. A strategy may refresh what it predicts with, such as the class means of a
memory, when it is asked: what the first batch took beyond its images was that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from clbench.data.inputs import Inputs
from clbench.evaluate.meter import Meter
from clbench.kinds import fills
from clbench.strategies import Strategy

MOST_KEPT = 16  # counts of like predictions; those of an evaluation and of looks take turns


@dataclass(frozen=True)
class First:
    """What the first batch of some took."""

    flops: int
    num_images: int


class PredictionFlops:
    """Puts what predictions take on the account of the phase that predicts."""

    def __init__(self, strategy: Strategy, meter: Meter, predict: Callable[[Inputs], Tensor]) -> None:
        """Know nothing yet."""
        self._strategy, self._meter, self._predict = strategy, meter, predict
        self._num_seen = 0  # tasks, when the shapes were looked at
        self._shapes = ""
        self._of_image: dict[str, list[int]] = {}  # of one image: whole, and beside the cache
        self._of_hits: dict[str, list[int]] = {}  # of a training batch and its images, by what it depends on

    def first(self, inputs: Inputs) -> tuple[Tensor, First]:
        """Predict the first batch of some, and count it."""
        with self._meter.counting() as counted:
            scores = self._predict(inputs)
        return scores, First(counted.flops, len(inputs))

    def training_batch(self, inputs: Inputs, num_seen: int, *, is_changed: bool) -> tuple[Tensor, First]:
        """Predict a batch that is about to be learnt; count it, unless the like of it was counted.

        What it takes beyond its images depends on how full memories are, and on whether anything was learnt
        since the last prediction (``is_changed``).
        """
        self._look_at_shapes(num_seen)
        key = f"{fills(self._strategy.parts().values())} {is_changed}"
        if key in self._of_hits:
            return self._predict(inputs), First(*self._of_hits[key])
        scores, first = self.first(inputs)
        _remember(self._of_hits, key, [first.flops, first.num_images])
        return scores, first

    def account(
        self, phase: str, num_seen: int, num_images: int, first: First, one: Callable[[], Inputs]
    ) -> None:
        """Put what it took to predict so many images of the tasks seen on the account of a phase.

        ``one`` makes an image to predict. It is predicted with gradients, because torch's counter asks what
        has some for its node of the graph.
        """
        self._look_at_shapes(num_seen)
        key = str(first.flops / first.num_images)
        if key not in self._of_image:
            with self._meter.counting() as whole:
                self._predict(replace(one(), cache=None))
            with self._meter.counting() as beside:
                self._predict(one())
            _remember(self._of_image, key, [whole.flops, beside.flops])
        per_image, beside_cache = self._of_image[key]
        self._meter.flops["evaluate_per_image"] = float(per_image)
        refreshed = max(0, first.flops - beside_cache * first.num_images)
        self._meter.put(phase, float(beside_cache * num_images + refreshed))

    def state(self) -> dict[str, Any]:
        """Return what is known, for a checkpoint."""
        known = {"of_image": self._of_image, "of_hits": self._of_hits}
        return {"num_seen": self._num_seen, "shapes": self._shapes, **known}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self._num_seen, self._shapes = state["num_seen"], state["shapes"]
        self._of_image, self._of_hits = state["of_image"], state["of_hits"]

    def _look_at_shapes(self, num_seen: int) -> None:
        """Forget what was counted if the shapes have changed; they do with tasks alone."""
        if num_seen == self._num_seen:
            return
        self._num_seen, shapes = num_seen, _shapes_of(self._strategy.parts())
        if shapes != self._shapes:
            self._shapes, self._of_image, self._of_hits = shapes, {}, {}


def _shapes_of(parts: Mapping[str, nn.Module]) -> str:
    """Return a short text that only parts of equal shapes share."""
    total = hashlib.sha256()
    for kind, part in parts.items():
        for name, tensor in part.state_dict().items():
            total.update(f"{kind} {name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    return total.hexdigest()[:16]


def _remember(known: dict[str, list[int]], key: str, values: list[int]) -> None:
    known[key] = values
    if len(known) > MOST_KEPT:
        del known[next(iter(known))]
