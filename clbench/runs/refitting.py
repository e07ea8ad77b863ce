"""Learn in closed form anew, task by task, from the features of a learner's low-bit form.

What a learner has learnt from features in float fits those of its low-bit form less well. Where all that it
learnt is sums over features, they can be summed up anew, by a twin that has the form from the first task on
and is shown each task's training images when they come: nothing of earlier tasks is looked at again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save

from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.data.inputs import Batch, Feed
from clbench.data.tasks import Task
from clbench.files import sweep
from clbench.outside.reading import read_bytes
from clbench.records.record import Record
from clbench.runs.checkpoint import under
from clbench.runs.deployed import Deployed
from clbench.runs.modes import evaluation_mode
from clbench.seeds import Seeds

KEPT = 2  # the newest state and the one before: a run may be stopped before its own checkpoint is written


def learn_anew(
    twin: Deployed, task: Task, batcher: Batcher, seeds: Seeds, cache: FeatureCache | None, batch_size: int
) -> None:
    """Show a twin the training images of a task."""

    def batch(places: NDArray[np.int64]) -> Batch:
        return Batch(
            batcher=batcher,
            rows=task.train.rows[places],
            labels=batcher.labels(task.train, places),
            task=task.index,
            seeds=seeds,
            position=(task.index, 0, 0),
            cache=cache,
        )

    if cache:
        for view in ("test", "whole"):
            cache.expect(view, task.train.rows)
    feed = Feed(task.train, batch_size, batch)
    twin.strategy.begin_task(task)
    for part in twin.strategy.parts().values():
        part.requires_grad_(False)
    evaluation_mode(twin.strategy)
    twin.strategy.before_training(task, feed)
    twin.strategy.end_task(task, feed)


def keep(twin: Deployed, record: Record, task: int) -> None:
    """Write what a twin holds after a task, and remove what is two tasks old."""
    tensors = {
        f"{kind}/{name}": tensor.detach().cpu().contiguous()
        for kind, part in twin.strategy.parts().items()
        for name, tensor in part.state_dict().items()
    }
    record.write_bytes(_name(task), save(tensors))
    old = record.path / _name(task - KEPT)
    if old.is_file():
        old.unlink()
        sweep(record.path)


def take_back(twin: Deployed, folder: Path, behind: list[Task]) -> None:
    """Let a twin hold what was kept after the last of some tasks."""
    for task in behind:
        twin.strategy.begin_task(task)
    tensors = load(read_bytes(folder / _name(behind[-1].index)))
    parts = twin.strategy.parts()
    twin.strategy.take_back({kind: under(f"{kind}/", tensors) for kind in parts})


def _name(task: int) -> str:
    return f"refit/after-task-{task:02d}.safetensors"
