"""Let modules that start from the loss do so, before they learn for the first time."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from clbench.data.inputs import Batch
from clbench.petl.attached import Attached
from clbench.strategies import Strategy


def start_modules(strategy: Strategy, batches: Iterable[Batch], generator: torch.Generator) -> None:
    """Show the modules that start from the loss a few batches, before they learn for the first time."""
    parts = [part for part in strategy.parts().values() if isinstance(part, Attached)]
    waiting = [part for part in parts if part.waits_to_start]
    shown = list(batches) if waiting else []
    for part in waiting:
        part.eval()
        part.start(strategy.loss, shown, generator)
