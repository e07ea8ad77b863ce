"""Define what a parameter-efficient module is: a recipe that puts branches at a backbone's sites.

A module file holds a dataclass of hyper-parameters with one method, ``branches``, that says which branch goes
to which site. Everything else (attach, detach, switch, merge, copy, count, save) is the same for all and done
by ``Attached``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from clbench.registry import Registry

if TYPE_CHECKING:
    import torch

    from clbench.backbones.backbone import Backbone
    from clbench.backbones.sites import Branch, Site
    from clbench.petl.attached import Attached


@dataclass(frozen=True)
class Petl(ABC):
    """A parameter-efficient module's hyper-parameters, and where its branches go."""

    identity_at_start: ClassVar[bool] = True  # whether attaching leaves the backbone's output bit-unchanged
    mergeable: ClassVar[bool] = False  # whether the branches can be folded into the backbone's own weights

    @abstractmethod
    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Yield each branch, initialised from ``generator``, with the site that it attaches to."""

    def tuned(self, backbone: Backbone) -> list[str]:
        """Return the names of the backbone's own tensors that are trained too; usually none."""
        return []

    def attach(self, backbone: Backbone, generator: torch.Generator) -> Attached:
        """Attach to a backbone and return the attached module, switched on."""
        from clbench.petl.attached import Attached, trained_copies

        tuned = trained_copies(backbone, self.tuned(backbone))
        return Attached(backbone, list(self.branches(backbone, generator)), tuned)


registry: Registry[Petl] = Registry("petl", __name__, Petl)
register, get, names = registry.register, registry.get, registry.names

__all__ = ["Petl", "get", "names", "register"]
