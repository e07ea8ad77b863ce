"""Tell modules when learning starts, and how far it is, where they want to know."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clbench.inputs import Batch
from clbench.petl.attached import Attached
from clbench.strategies import Strategy


class Scheduled(nn.Module):
    """A part that changes by itself during the training of a task, such as a router that fades.

    ``progress`` is the share of the task's training that lies behind, in [0, 1]. The loop sets it before each
    step, and to 1 after the last; it is a tensor of the state, so a saved part comes back as it was.
    """

    progress: Tensor

    def __init__(self) -> None:
        """Start before the training."""
        super().__init__()
        self.register_buffer("progress", torch.zeros(()))


def start_modules(strategy: Strategy, batches: Iterable[Batch], generator: torch.Generator) -> None:
    """Show the modules that start from the loss a few batches, before they learn for the first time."""
    parts = [part for part in strategy.parts().values() if isinstance(part, Attached)]
    waiting = [part for part in parts if part.waits_to_start]
    shown = list(batches) if waiting else []
    for part in waiting:
        part.eval()
        part.start(strategy.loss, shown, generator)


def scheduled(parts: Iterable[nn.Module]) -> list[Scheduled]:
    """Return every scheduled module inside ``parts``."""
    return [each for part in parts for each in part.modules() if isinstance(each, Scheduled)]
