"""Ask a strategy for its predictions on the tasks seen so far.

One pass makes one log, from which every metric is derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.data.batches import Batcher, in_order
from clbench.data.feature_cache import FeatureCache
from clbench.data.inputs import Inputs
from clbench.data.samples import Samples, join
from clbench.data.tasks import Task, TaskStream
from clbench.evaluate.digest import digest
from clbench.evaluate.meter import Meter
from clbench.evaluate.reliability import Reliability
from clbench.evaluate.results import SCORE_TYPES
from clbench.records.progress import Progress
from clbench.runs.modes import evaluation_mode
from clbench.runs.returned import checked_scores, refuse_other_width
from clbench.strategies import Strategy

Columns = dict[str, NDArray[np.generic]]


@dataclass
class Evaluator:
    """Predicts with one strategy on one stream's test images."""

    strategy: Strategy
    stream: TaskStream
    batcher: Batcher
    meter: Meter
    progress: Progress
    cache: FeatureCache | None = None
    precision: str = "fp32"
    batch_size: int = 256  # images
    reliability: Columns = field(default_factory=dict, init=False)  # of the last evaluation after a task
    _first_batch: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict, init=False)

    def after_task(self, seen: Sequence[Task]) -> Columns:
        """Return the prediction log of the test images of every task seen, and count their reliability."""
        evaluation_mode(self.strategy)
        samples = [task.test for task in seen]
        num_images = sum(map(len, samples))
        self.progress.evaluation_started(num_images)
        reliability = Reliability(1 + max(max(task.classes) for task in seen))
        columns = self.log(seen, samples, reliability=reliability)
        self.meter.lap("evaluate")
        self.reliability = reliability.columns()
        return columns

    def ahead(self, num_seen: int) -> Columns:
        """Return the prediction log of the tasks that come after the first ``num_seen``.

        It means something only where all tasks share their classes.
        """
        evaluation_mode(self.strategy)
        tasks = self.stream.tasks
        samples = [task.test if task.index >= num_seen else task.test.select(slice(0)) for task in tasks]
        return self.log(tasks, samples) if any(map(len, samples)) else {}

    def account(self, phase: str, seen: Sequence[Task], num_images: int) -> None:
        """Put what predicting so many images of the tasks seen took on the account of a phase.

        One image is predicted, with gradients, because torch's counter asks what has some for its node of the
        graph. What it takes to predict an image is one thing, what is left beside the cache another. A
        strategy may refresh what it predicts with, such as class means, when it is asked: what the first
        batch took beyond its images was that.
        """

        def one() -> Inputs:  # made only where there is something to count: this is called at every step
            filled = next(task for task in reversed(seen) if len(task.test))
            return self.inputs(filled.test.rows[:1], filled.index)

        beside = "evaluate beside cache"
        self.meter.flops_per_image("evaluate", len(seen), 1, lambda: self.predict(replace(one(), cache=None)))
        per_image = self.meter.count(beside, len(seen), 1, lambda: self.predict(one()))
        flops, num_first = self._first_batch.get((phase, len(seen)), (0.0, 0))
        self.meter.put(phase, per_image * num_images + max(0.0, flops - per_image * num_first))

    def hits(self, inputs: Inputs, labels: Tensor, known: Tensor | None) -> int:
        """Return how many of the images are predicted right, choosing among the ``known`` classes."""
        evaluation_mode(self.strategy)
        with torch.inference_mode():
            scores = self.predict(inputs)
            if known is not None:
                scores = scores.masked_fill(~known[: scores.shape[1]], -1.0)
            return int((scores.argmax(dim=1) == labels).sum())

    def log(
        self,
        seen: Sequence[Task],
        samples: Sequence[Samples],
        known: Tensor | None = None,
        *,
        reliability: Reliability | None = None,
        phase: str = "evaluate",
    ) -> Columns:
        """Return the prediction log of some samples of each task seen, one row an image.

        The columns are those of ``clbench.evaluate.digest``. Where the task is told with an image, only its
        classes have a share. ``reliability`` counts every class's share. What it takes is on the account of
        ``phase``.
        """
        whole = join(samples)
        with self.meter.phase(phase, images=len(whole)), torch.inference_mode():
            columns = self._log(seen, whole, list(map(len, samples)), known, reliability, phase)
        self.account(phase, seen, len(whole))
        return columns

    def _log(
        self,
        seen: Sequence[Task],
        whole: Samples,
        sizes: Sequence[int],
        known: Tensor | None,
        reliability: Reliability | None,
        phase: str,
    ) -> Columns:
        task_of_row = np.repeat([task.index for task in seen], sizes)
        membership = _membership(seen).to(self.batcher.device)
        came_in = membership.int().argmax(dim=0)  # (C,): the first task of each class
        newest = int(came_in.max())
        if self.cache:
            self.cache.expect("test", whole.rows)
        pieces: list[Tensor] = []
        for part in self._parts(task_of_row):
            inputs = self.inputs(whole.rows[part], int(task_of_row[part.start]))
            scores = self._predicted(inputs, (phase, len(seen))).float()
            refuse_other_width(self.strategy, scores, membership.shape[1])
            own_task = membership[torch.from_numpy(task_of_row[part]).to(self.batcher.device)]
            if self.stream.scenario == "task":
                scores = scores.masked_fill(~own_task, 0.0)
            if known is not None:
                scores = scores.masked_fill(~known[: scores.shape[1]], 0.0)
            labels = self.batcher.labels(whole, np.arange(part.start, part.stop))
            shares = scores / scores.sum(dim=1, keepdim=True)
            if reliability:
                reliability.add(shares, labels)
            pieces.append(digest(shares, labels, own_BC=own_task, came_in_C=came_in, newest=newest))
            self.progress.batch_predicted(part.stop - part.start)
        columns = _columns(torch.cat(pieces, dim=1), whole, task_of_row)
        if self.stream.scenario == "task":  # the classes of other tasks had no chance
            columns |= {name: np.full_like(columns[name], np.nan) for name in ("old_score", "new_score")}
        return columns

    def _predicted(self, inputs: Inputs, when: tuple[str, int]) -> Tensor:
        """Predict, and count what it takes if it is the first batch of a phase after so many tasks."""
        if when in self._first_batch:
            return self.predict(inputs)
        scores: list[Tensor] = []
        flops = self.meter.measured(lambda: scores.append(self.predict(inputs)))
        self._first_batch[when] = flops, len(inputs)
        return scores[0]

    def _parts(self, task_of_row: NDArray[np.int64]) -> list[slice]:
        """Cut the rows into batches; where the task is told, each of one task."""
        if self.stream.scenario != "task":
            return list(in_order(len(task_of_row), self.batch_size))
        starts = np.flatnonzero(np.diff(task_of_row, prepend=-1)).tolist()
        ends = [*starts[1:], len(task_of_row)]
        return [
            slice(start + part.start, start + part.stop)
            for start, end in zip(starts, ends, strict=True)
            for part in in_order(end - start, self.batch_size)
        ]

    def inputs(self, rows: NDArray[np.int64], task: int) -> Inputs:
        """Return images of one task to predict; the task is told where the scenario tells it."""
        told = task if self.stream.scenario == "task" else None
        return Inputs(batcher=self.batcher, rows=rows, task=told, cache=self.cache)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the strategy's scores in the run's precision."""
        with torch.autocast(self.batcher.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return checked_scores(self.strategy, self.strategy.predict(inputs), len(inputs))


def joined(first: Columns, second: Columns) -> Columns:
    """Return one log after another; the second may be empty."""
    return (
        {name: np.concatenate([values, second[name]]) for name, values in first.items()} if second else first
    )


def _membership(seen: Sequence[Task]) -> Tensor:
    """Return (task, class) -> whether the class occurs in the task, for all tasks and classes seen."""
    membership = torch.zeros(len(seen), 1 + max(max(task.classes) for task in seen), dtype=torch.bool)
    for task in seen:
        membership[task.index, task.classes] = True
    return membership


def _columns(digested: Tensor, samples: Samples, task_of_row: NDArray[np.int64]) -> Columns:
    numbers = dict(zip(SCORE_TYPES, digested.cpu().double().numpy(), strict=True))
    return {
        "task": task_of_row.astype(np.int16),
        "row": samples.rows,
        "label": samples.labels.astype(np.int32),
        **{name: numbers[name].astype(kind) for name, kind in SCORE_TYPES.items()},
    }
