"""Ask a strategy for its predictions on the tasks seen so far.

One pass makes one log, from which every metric is derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.data.batches import Batcher, in_order
from clbench.data.feature_cache import FeatureCache
from clbench.data.inputs import Inputs
from clbench.data.samples import Samples, join
from clbench.data.tasks import Task, TaskStream
from clbench.evaluate.digest import NEVER, digest, shares_of
from clbench.evaluate.meter import Meter
from clbench.evaluate.reliability import Reliability
from clbench.evaluate.results import SCORE_TYPES
from clbench.evaluate.score_check import ScoreCheck
from clbench.records.progress import Progress
from clbench.runs.membership import Membership
from clbench.runs.modes import evaluation_mode
from clbench.runs.prediction_flops import First, PredictionFlops
from clbench.runs.returned import checked_scores, refuse_other_width
from clbench.runs.soundness import refuse_scores
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

    def __post_init__(self) -> None:
        """Make what counts the operations, and the table of the classes of each task."""
        self.flops = PredictionFlops(self.strategy, self.meter, self.predict)
        self._membership = Membership(self.stream, self.batcher.device)

    def after_task(self, seen: Sequence[Task]) -> Columns:
        """Return the prediction log of the test images of every task seen, and count their reliability."""
        evaluation_mode(self.strategy)
        samples = [task.test for task in seen]
        num_images = sum(map(len, samples))
        self.progress.evaluation_started(num_images)
        reliability = Reliability(1 + max(max(task.classes) for task in seen))
        check = ScoreCheck(are_probabilities=self.strategy.gives_probabilities)
        columns = self.log(seen, samples, reliability=reliability, check=check)
        labels = np.concatenate([each.labels for each in samples])
        fault = check.fault(is_to_tell=len(np.unique(labels)) > 1)
        refuse_scores(self.strategy, fault, f"after task {len(seen)}")
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
        if not any(map(len, samples)):
            return {}
        check = ScoreCheck(are_probabilities=self.strategy.gives_probabilities)
        columns = self.log(tasks, samples, check=check)
        when = f"on the tasks ahead of task {num_seen + 1}" if num_seen else "before task 1"
        refuse_scores(self.strategy, check.fault(is_to_tell=False), when)
        return columns

    def hits(
        self, inputs: Inputs, labels: Tensor, known: Tensor | None, seen: Sequence[Task], *, is_changed: bool
    ) -> int:
        """Return how many images about to be learnt are predicted right, among the ``known`` classes.

        What it takes is on the account of "watch"; ``is_changed`` says whether anything was learnt since the
        last prediction.
        """
        evaluation_mode(self.strategy)
        with self.meter.phase("watch", images=len(inputs)), torch.inference_mode():
            scores, first = self.flops.training_batch(inputs, len(seen), is_changed=is_changed)
            if known is not None:
                scores = scores.masked_fill(~known[: scores.shape[1]], NEVER)
            num_right = int((scores.argmax(dim=1) == labels).sum())
        self._account("watch", seen, len(inputs), first)
        return num_right

    def log(
        self,
        seen: Sequence[Task],
        samples: Sequence[Samples],
        known: Tensor | None = None,
        *,
        reliability: Reliability | None = None,
        check: ScoreCheck | None = None,
        phase: str = "evaluate",
    ) -> Columns:
        """Return the prediction log of some samples of each task seen, one row an image.

        The columns are those of ``clbench.evaluate.digest``. Where the task is told with an image, one of its
        classes is chosen. ``reliability`` counts every class's share, where scores are probabilities;
        ``check`` sees all scores. What it takes is on the account of ``phase``.
        """
        whole = join(samples)
        with self.meter.phase(phase, images=len(whole)), torch.inference_mode():
            columns, first = self._log(seen, whole, list(map(len, samples)), known, reliability, check)
        self._account(phase, seen, len(whole), first)
        return columns

    def one_image(self, seen: Sequence[Task]) -> Inputs:
        """Return a test image of the newest of the tasks that has some."""
        filled = next(task for task in reversed(seen) if len(task.test))
        return self.inputs(filled.test.rows[:1], filled.index)

    def _account(self, phase: str, seen: Sequence[Task], num_images: int, first: First) -> None:
        with self.meter.phase("accounting"):
            self.flops.account(phase, len(seen), num_images, first, lambda: self.one_image(seen))

    def _log(
        self,
        seen: Sequence[Task],
        whole: Samples,
        sizes: Sequence[int],
        known: Tensor | None,
        reliability: Reliability | None,
        check: ScoreCheck | None,
    ) -> tuple[Columns, First]:
        task_of_row = np.repeat([task.index for task in seen], sizes)
        membership, came_in = self._membership.of_first(len(seen))
        newest = int(came_in.max())
        if self.cache:
            self.cache.expect("test", whole.rows)
        pieces: list[Tensor] = []
        first: First | None = None
        for part in self._parts(task_of_row):
            inputs = self.inputs(whole.rows[part], int(task_of_row[part.start]))
            scores, counted = self.flops.first(inputs) if first is None else (self.predict(inputs), first)
            scores, first = scores.float(), counted
            refuse_other_width(self.strategy, scores, membership.shape[1])
            if check:
                check.add(scores)
            own_task = membership[torch.from_numpy(task_of_row[part]).to(self.batcher.device)]
            labels = self.batcher.labels(whole, np.arange(part.start, part.stop))
            scores, shares = self._among(scores, own_task, known)
            if reliability and shares is not None:
                reliability.add(shares, labels)
            pieces.append(
                digest(scores, labels, shares_BC=shares, own_BC=own_task, came_in_C=came_in, newest=newest)
            )
            self.progress.batch_predicted(part.stop - part.start)
        columns = _columns(torch.cat(pieces, dim=1), whole, task_of_row)
        if self.stream.scenario == "task":  # the classes of other tasks had no chance
            columns |= {name: np.full_like(columns[name], np.nan) for name in ("old_score", "new_score")}
        assert first is not None
        return columns, first

    def _among(self, scores: Tensor, own: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the scores among the classes that may be chosen, and the shares if they are such."""
        allowed = own if self.stream.scenario == "task" else None
        if known is not None:
            met = known[: scores.shape[1]]
            allowed = met.expand_as(scores) if allowed is None else allowed & met
        shares = shares_of(scores, allowed) if self.strategy.gives_probabilities else None
        return (scores if allowed is None else scores.masked_fill(~allowed, NEVER)), shares

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


def _columns(digested: Tensor, samples: Samples, task_of_row: NDArray[np.int64]) -> Columns:
    numbers = dict(zip(SCORE_TYPES, digested.cpu().double().numpy(), strict=True))
    return {
        "task": task_of_row.astype(np.int16),
        "row": samples.rows,
        "label": samples.labels.astype(np.int32),
        **{name: numbers[name].astype(kind) for name, kind in SCORE_TYPES.items()},
    }
