"""Hold what was learnt: a strategy on its backbone as it was when its last task had ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.given import tensors_digest
from clbench.data.history import History
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import Checkpoint
from clbench.strategies import Strategy


@dataclass(eq=False)
class Learnt:
    """A strategy, its backbone, what it has learnt, and what it was made from."""

    spec: RunSpec  # with the names that a user has given components of theirs now
    origin: RunSpec  # as the run was begun
    history: History  # the tasks learnt
    strategy: Strategy
    backbone: Backbone
    checkpoint: Checkpoint  # what the strategy took back
    strategy_source: str  # SHA-256 of the files that the strategy is read from
    left_out: tuple[str, ...] = ()  # the tensors of its state that it came without
    is_packed: bool = False  # whether its low-bit layers were stored packed, and learn no more
    path: Path | None = None  # the folder that it was loaded from
    weights: Path | None = None  # the file of the backbone's weights, where it is not what the spec says
    folded: tuple[int, ...] = ()  # places of the modules that are merged into the backbone's weights

    @property
    def class_names(self) -> list[str]:
        """The names of all classes seen, in the order of the scores."""
        return self.history.class_names

    @property
    def num_tasks(self) -> int:
        """The number of tasks learnt."""
        return len(self.history.tasks)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.device

    def state_digest(self) -> str:
        """Return the SHA-256 of the state, by which a learner that learnt on names it."""
        return tensors_digest(self.checkpoint.tensors)
