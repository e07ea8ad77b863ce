"""Stop poor trials early: asynchronous successive halving, ASHA (Li et al. 2020, arXiv:1810.05934).

A trial that has learnt so many tasks goes on if it is among the best of those that came as far.

Differs from the paper:
- a trial that comes to a rung goes on or stops at once, and none is promoted later: a learner that goes on at
  once need not be put down and taken up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

MOST_TASKS = 1_000_000  # beyond any stream


@dataclass(frozen=True)
class Stopping:
    """Which trials go on behind which tasks."""

    reduction: Annotated[int, Field(ge=2)] = 3  # one of so many goes on at a rung
    grace: Annotated[int, Field(ge=1)] = 1  # tasks that every trial learns

    @property
    def rungs(self) -> frozenset[int]:
        """The numbers of tasks learnt after which it is decided: grace, grace * reduction, ..."""
        found, num_tasks = [], self.grace
        while num_tasks < MOST_TASKS:
            found.append(num_tasks)
            num_tasks *= self.reduction
        return frozenset(found)

    def goes_on(self, score: float, before: Sequence[float]) -> bool:
        """Tell whether a score, higher being better, is among the best of it and those that came before.

        The best one of ``reduction`` goes on, and one at least; NaN never does.
        """
        reached = sorted([score, *(each for each in before if each == each)], reverse=True)
        num_best = max(1, (1 + len(before)) // self.reduction)
        return score == score and score >= reached[min(num_best, len(reached)) - 1]
