"""Hold what ``bitfit`` and ``norm-tuning`` share: some of the backbone's own parameters are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import VTAB_RECIPE, Petl


@dataclass(frozen=True)
class Tuning(Petl, ABC):
    """A module that adds nothing, so that there is nothing to merge."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Attach nothing."""
        return iter(())

    @abstractmethod
    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the names of the parameters that are trained."""
