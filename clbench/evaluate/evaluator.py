"""Ask a strategy for its predictions on the tasks seen so far.

One pass makes one log, from which every metric is derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.data.batches import Batcher, in_order
from clbench.data.samples import Samples, join
from clbench.evaluate.meter import Meter
from clbench.feature_cache import FeatureCache
from clbench.inputs import Inputs
from clbench.modes import evaluation_mode
from clbench.progress import Progress
from clbench.strategies import Strategy
from clbench.streams import Task, TaskStream

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

    def after_task(self, seen: Sequence[Task]) -> Columns:
        """Return the prediction log of the test images of every task seen."""
        evaluation_mode(self.strategy)
        samples = [task.test for task in seen]
        num_images = sum(map(len, samples))
        self.progress.evaluation_started(num_images)
        with self.meter.phase("evaluate", images=num_images):
            columns = self.log(seen, samples)
        self.meter.memory.lap("evaluate")
        filled = next(task for task in reversed(seen) if len(task.test))
        one = self._inputs(filled.test.rows[:1], filled.index)
        # With gradients, because torch's counter asks what has some for its node of the graph. What it takes
        # to predict an image is one thing, what was left to compute beside the cache another.
        computed = replace(one, cache=None)
        self.meter.flops_per_image("evaluate", len(seen), 1, lambda: self._predict(computed))
        spent = self.meter.count("evaluate beside cache", len(seen), 1, lambda: self._predict(one))
        self.meter.flops["evaluate"] += spent * num_images
        return columns

    def hits(self, inputs: Inputs, labels: Tensor, known: Tensor | None) -> int:
        """Return how many of the images are predicted right, choosing among the ``known`` classes."""
        evaluation_mode(self.strategy)
        with torch.inference_mode():
            scores = self._predict(inputs)
            if known is not None:
                scores = scores.masked_fill(~known[: scores.shape[1]], -1.0)
            return int((scores.argmax(dim=1) == labels).sum())

    @torch.inference_mode()
    def log(self, seen: Sequence[Task], samples: Sequence[Samples], known: Tensor | None = None) -> Columns:
        """Return the prediction log of some samples of each task seen, one row an image.

        ``masked_prediction`` is the best among the classes of the image's own task, and where the task is
        told with an image the prediction, too; ``confidence`` and ``label_score`` are the shares of the
        predicted and of the true class in the row's scores.
        """
        whole = join(samples)
        task_of_row = np.repeat([task.index for task in seen], [len(part) for part in samples])
        membership = _membership(seen).to(self.batcher.device)
        if self.cache:
            self.cache.expect("test", whole.rows)
        pieces: list[Tensor] = []
        for part in self._parts(task_of_row):
            inputs = self._inputs(whole.rows[part], int(task_of_row[part.start]))
            scores = self._predict(inputs).float()
            expected = (part.stop - part.start, membership.shape[1])
            if scores.shape != expected:
                raise ValueError(
                    f"predict returned scores of shape {tuple(scores.shape)}; expected {expected}"
                )
            own_task = membership[torch.from_numpy(task_of_row[part]).to(self.batcher.device)]
            if self.stream.scenario == "task":
                scores = scores.masked_fill(~own_task, 0.0)
            if known is not None:
                scores = scores.masked_fill(~known[: scores.shape[1]], 0.0)
            labels = self.batcher.labels(whole, np.arange(part.start, part.stop))
            pieces.append(_digest(scores, labels, own_task))
            self.progress.batch_predicted(part.stop - part.start)
        return _columns(torch.cat(pieces, dim=1), whole, task_of_row)

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

    def _inputs(self, rows: NDArray[np.int64], task: int) -> Inputs:
        told = task if self.stream.scenario == "task" else None
        return Inputs(batcher=self.batcher, rows=rows, task=told, cache=self.cache)

    def _predict(self, inputs: Inputs) -> Tensor:
        with torch.autocast(self.batcher.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.strategy.predict(inputs)


def _membership(seen: Sequence[Task]) -> Tensor:
    """Return (task, class) -> whether the class occurs in the task, for all tasks and classes seen."""
    membership = torch.zeros(len(seen), 1 + max(max(task.classes) for task in seen), dtype=torch.bool)
    for task in seen:
        membership[task.index, task.classes] = True
    return membership


def _digest(scores: Tensor, labels: Tensor, own_task: Tensor) -> Tensor:
    """Return what is logged of a batch: (4, B) in double precision, which holds class numbers exactly."""
    share = scores / scores.sum(dim=1, keepdim=True)
    top = share.max(dim=1)
    masked = scores.masked_fill(~own_task, -1.0).argmax(dim=1)
    of_label = share.gather(1, labels[:, None])[:, 0]
    return torch.stack((top.indices.double(), masked.double(), top.values.double(), of_label.double()))


def _columns(digest: Tensor, samples: Samples, task_of_row: NDArray[np.int64]) -> Columns:
    prediction, masked, confidence, label_score = digest.cpu().double().numpy()
    return {
        "task": task_of_row.astype(np.int16),
        "row": samples.rows,
        "label": samples.labels.astype(np.int32),
        "prediction": prediction.astype(np.int32),
        "masked_prediction": masked.astype(np.int32),
        "confidence": confidence.astype(np.float32),
        "label_score": label_score.astype(np.float32),
    }
