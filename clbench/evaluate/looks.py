"""Hold the looks at a learner while it learns: accuracy on each task seen, every so many steps.

S looks, T tasks, indices from 0, NaN where a task was not looked at. After a task there are two numbers for
each task: on all its test images, which is exact, and on the fixed subset that every other look takes. What
is compared over time is compared on the subset: two samples of images differ without anything being learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("step", "images", "in_task", "task", "hits", "num", "exact")
PREQUENTIAL = -1  # the "task" of training images that were predicted before they were learnt

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Anytime:
    """What was seen of a run at each look, in order."""

    steps: Counts  # (S,): training steps so far
    images: Counts  # (S,): training images so far
    in_task: Counts  # (S,): task that was being learnt
    exact: NDArray[np.bool_]  # (S,): whether the task had just ended, and all test images were looked at
    accuracy: Shares  # (S, T): on all test images where the look is exact, elsewhere on the subset
    subset: Shares  # (S, T): on the subset, the same images at every look
    num: Counts  # (S, T): images of the subset; fewer while some of a task's classes have not been met
    num_test: Counts  # (T,): all test images of each task
    hits: Counts  # (S,): of the training images tried since the look before
    tried: Counts  # (S,): training images predicted before they were learnt, since the look before

    @classmethod
    def from_log(cls, log: Mapping[str, NDArray[Any]], num_tasks: int) -> Anytime:
        """Gather the rows of each look; of two rows about the same the later one counts."""
        place = np.stack([log["step"], log["in_task"]], axis=1)
        looks, first, look = np.unique(place, axis=0, return_index=True, return_inverse=True)
        look, task, is_exact = look.reshape(-1), log["task"], log["exact"] == 1
        is_tried = task == PREQUENTIAL

        def spread(chosen: NDArray[np.bool_]) -> tuple[Shares, Counts]:
            num, share = np.zeros((len(looks), num_tasks), np.int64), np.full((len(looks), num_tasks), np.nan)
            cell = look[chosen], task[chosen]
            num[cell] = log["num"][chosen]
            share[cell] = log["hits"][chosen] / log["num"][chosen]
            return share, num

        subset, num = spread(~is_exact & ~is_tried)
        whole, num_whole = spread(is_exact)
        exact: NDArray[np.bool_] = num_whole.sum(axis=1) > 0
        hits, tried = (np.zeros(len(looks), np.int64) for _ in range(2))
        np.add.at(hits, look[is_tried], log["hits"][is_tried])
        np.add.at(tried, look[is_tried], log["num"][is_tried])
        return cls(
            steps=looks[:, 0],
            images=log["images"][first],
            in_task=looks[:, 1],
            exact=exact,
            accuracy=np.where(exact[:, None], whole, subset),
            subset=subset,
            num=num,
            num_test=num_whole.max(axis=0, initial=0),
            hits=hits,
            tried=tried,
        )

    @property
    def is_watched(self) -> bool:
        """Whether there were looks inside tasks, and one after every task."""
        ended = np.unique(self.in_task[self.exact])
        return not self.exact.all() and len(ended) == len(self.num_test)

    @property
    def tested(self) -> list[int]:
        """The tasks that have test images; a segment of a flow without new classes has none."""
        return [int(task) for task in np.flatnonzero(self.num_test)]

    def old_tasks(self) -> list[tuple[Counts, Shares]]:
        """Return, of each tested task before the last, steps and accuracies on its subset since its end."""
        starts = [np.flatnonzero(self.exact & (self.in_task == task))[0] for task in self.tested[:-1]]
        return [
            (self.steps[start:], self.subset[start:, task])
            for start, task in zip(starts, self.tested[:-1], strict=True)
        ]
