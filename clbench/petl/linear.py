"""Attach nothing, so that only the strategy's head learns: linear probing, as one more module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register


@register("linear")
@dataclass(frozen=True)
class Linear(Petl):
    """The backbone stays as it is."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 1e-4}

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Attach nothing."""
        return iter(())
