"""Fill a memory greedily with equal shares of the classes, and train afresh on it alone when asked (GDumb).

A. Prabhu, P. H. S. Torr, P. K. Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual
Learning", ECCV 2020. Nothing is learnt while the images come; after each task a network that has seen nothing
but the pre-training is trained on the memory. Whatever does worse than this makes no use of the rest of the
stream.

Differs from the paper: no CutMix, and one cosine of the learning rate instead of restarts; the paper trains
from scratch, at 0.05 to 0.0005 in batches of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from clbench.data.batches import in_order
from clbench.data.samples import Samples
from clbench.data.stored import Stored
from clbench.learning.rehearsal import Rehearsal
from clbench.strategies import Schedule, Task, register

PIECE = 256  # images offered to the memory at a time


@register("gdumb", petl="adapter")
@dataclass
class GDumb(Rehearsal):
    """A balanced memory, and cross-entropy on it from the pre-trained backbone each time."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "online": {"memory_epochs": 30},
        "online+full": {"optimizer": "sgd", "learning_rate": 0.05},
    }

    schedule: Schedule = "cosine"
    memory_size: Annotated[int, Field(ge=1)] = 2000  # images
    memory_epochs: Annotated[int, Field(ge=0)] = 0  # passes over the memory; 0: ``epochs``

    def training_samples(self, seen: Sequence[Task], num_tasks: int) -> Samples:
        """Return what the memory holds."""
        stored = self.memory.at(torch.arange(len(self.memory)))
        return Samples(seen[-1].train.images, stored.rows.cpu().numpy(), stored.labels.cpu().numpy())

    def num_epochs(self, task_index: int) -> int:
        """Return how often to pass over the memory, also where each image of the stream comes only once."""
        return self.memory_epochs or self.epochs

    def begin_task(self, task: Task) -> None:
        """Offer the task's images to the memory, and start again from the pre-trained backbone."""
        self.memory.reserve(task.train.image_shape)
        self._fill(task)
        self.model.start_again(task)

    def _fill(self, task: Task) -> None:
        """Offer the images to the memory, in random order: within a class whoever comes first stays."""
        generator = self.seeds.generator("memory", task.index)
        order = torch.randperm(len(task.train), generator=generator).numpy()
        for piece in in_order(len(order), PIECE):
            part = task.train.select(order[piece])
            items = torch.from_numpy(np.ascontiguousarray(part.images[part.rows].transpose(0, 3, 1, 2)))
            labels, rows = torch.from_numpy(part.labels), torch.from_numpy(part.rows)
            tasks = torch.full_like(labels, task.index)
            self.memory.balance(Stored(items, labels, tasks, rows), generator)
