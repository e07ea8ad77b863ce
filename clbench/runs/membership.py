"""Know which classes occur in which task of a stream, and in which each came first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clbench.data.tasks import TaskStream


class Membership:
    """The table of a whole stream, made once; an evaluation looks at the tasks seen so far."""

    def __init__(self, stream: TaskStream, device: torch.device) -> None:
        """Look at every task."""
        largest = [max(task.classes) for task in stream.tasks]
        self._num_classes = 1 + np.maximum.accumulate(largest)  # (T,): known after each task
        table = torch.zeros(len(largest), int(self._num_classes[-1]), dtype=torch.bool)
        for task in stream.tasks:
            table[task.index, task.classes] = True
        self._table = table.to(device)
        self._came_in = table.int().argmax(dim=0).to(device)

    def of_first(self, num_tasks: int) -> tuple[Tensor, Tensor]:
        """Return, of so many tasks, (task, class) -> whether it occurs, and the first task of each class."""
        num_classes = int(self._num_classes[num_tasks - 1])
        came_in = self._came_in[:num_classes]
        return self._table[:num_tasks, :num_classes], came_in.where(came_in < num_tasks, 0)
