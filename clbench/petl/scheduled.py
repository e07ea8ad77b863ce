"""Define a part that changes by itself while a task is learnt, and find such parts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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


def scheduled(parts: Iterable[nn.Module]) -> list[Scheduled]:
    """Return every scheduled module inside ``parts``."""
    return [each for part in parts for each in part.modules() if isinstance(each, Scheduled)]
