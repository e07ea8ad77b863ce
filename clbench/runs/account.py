"""Keep what a run has spent, and what that is counted by, from one checkpoint to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clbench.data.feature_cache import FeatureCache
from clbench.data.samples import Samples
from clbench.evaluate.meter import Meter
from clbench.evaluate.step_flops import StepFlops
from clbench.runs.checkpoint import Checkpoint, Ended, Position
from clbench.runs.prediction_flops import PredictionFlops
from clbench.runs.watch import Watch


@dataclass(frozen=True)
class Account:
    """All that counts something in a loop."""

    meter: Meter
    watch: Watch
    steps: StepFlops
    predictions: PredictionFlops
    cache: FeatureCache | None
    # keeps what a resumed run has to know of a task that has ended, and returns that of so many tasks
    save_ended: Callable[[int, Ended], object]
    load_ended: Callable[[int], list[Ended]]

    def state(self) -> dict[str, Any]:
        """Return what has been spent, for a checkpoint."""
        return {
            **self.meter.state(),
            "watch": self.watch.state(),
            "step_flops": self.steps.state(),
            "prediction_flops": self.predictions.state(),
            "features": self.cache.state() if self.cache else {},
        }

    def load(self, checkpoint: Checkpoint, parts: Sequence[Samples]) -> None:
        """Go on with what had been spent; ``parts`` are the training and test images, task by task."""
        info, position = checkpoint.info, checkpoint.position
        if not info:  # of a learner that came without its account
            return
        self.meter.load(info)
        if "step_flops" not in info:
            self._load_older(info, position, parts)
            return
        ended = self.load_ended(position.task)
        self.meter.by_task = [costs for each in ended for costs in each.costs]
        self.watch.load(info["watch"], [each.looks for each in ended])
        self.steps.load(info["step_flops"])
        self.predictions.load(info["prediction_flops"])
        if self.cache:
            self.cache.load(info["features"])

    def _load_older(self, info: dict[str, Any], position: Position, parts: Sequence[Samples]) -> None:
        """Do so from a checkpoint that holds all tasks, and does not tell which features were paid for."""
        state = info["watch"]
        looks = [[]] * (position.task - 1) + [state["rows"]] if position.task else []
        for index, rows in enumerate(looks):
            self.save_ended(index, Ended(self.meter.by_task[index : index + 1], rows))
        self.watch.load(state if position.task == 0 else {**state, "rows": []}, looks)
        if self.cache:
            behind = parts[: 2 * position.task + position.is_inside_task]
            self.cache.paid = np.concatenate([self.cache.paid, *(part.rows for part in behind)])
