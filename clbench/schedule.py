"""Tell what changes while a task is learnt how far the learning is."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class Scheduled(nn.Module):
    """A part that changes by itself during the training of a task, such as a router that fades."""

    progress: float = 0.0  # share of the task's training that lies behind, in [0, 1]; set by the loop


def scheduled(parts: Iterable[nn.Module]) -> list[Scheduled]:
    """Return every scheduled module inside ``parts``."""
    return [each for part in parts for each in part.modules() if isinstance(each, Scheduled)]
