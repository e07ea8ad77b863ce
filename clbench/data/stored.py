"""Hand samples to a memory, and take them from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """Some samples, in a memory or offered to one."""

    items: Tensor  # (N, ...) images as uint8, or features
    labels: Tensor  # (N,) int64
    tasks: Tensor  # (N,) int64
    rows: Tensor  # (N,) int64, rows of the stream's image array; -1: not known
    extras: dict[str, Tensor] = field(default_factory=dict)  # whatever else was kept, such as logits
