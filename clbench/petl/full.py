"""Train the backbone itself: full fine-tuning, as one more module.

The module holds copies of every parameter and buffer of the backbone, batch-norm statistics included, so that
it can be switched, copied and saved like any other, and the pre-trained backbone is still there when it is
off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register


@register("full")
@dataclass(frozen=True)
class Full(Petl):
    """Every tensor of the backbone is trained."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4}
    trains_backbone: ClassVar[bool] = True

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Attach nothing."""
        return iter(())

    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the names of all parameters and saved buffers but a classifier's."""
        return backbone.tensor_names()
