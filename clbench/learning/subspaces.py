"""Keep class prototypes in several feature spaces, and synthesise those whose images are gone.

D.-W. Zhou, H.-L. Sun, H.-J. Ye, D.-C. Zhan, "Expandable Subspace Ensemble for Pre-Trained Model-Based
Class-Incremental Learning", CVPR 2024, arXiv 2403.12030.

Shapes: B images, S subspaces, C classes, I old classes, J new classes, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.kinds import HasKinds
from clbench.learning.losses.precision import cosines


class Subspaces(HasKinds):
    """The prototypes (S, C, D) of all classes in all subspaces, and the subspace of each class (C,)."""

    kinds: ClassVar[dict[str, str]] = {"": "prototypes"}

    prototypes: Tensor
    own: Tensor

    def __init__(self, width: int) -> None:
        """Start without subspaces and classes."""
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(0, 0, width))
        self.register_buffer("own", torch.zeros(0, dtype=torch.int64))

    def grow(self, num_classes: int, device: torch.device) -> None:
        """Append a subspace, and classes of its own."""
        self.to(device)
        subspace, _, _ = self.prototypes.shape
        self.own = torch.cat([self.own, self.own.new_full((num_classes,), subspace)])
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, num_classes, 0, 1))

    @torch.no_grad()
    def fill(self, prototype_SJD: Tensor, *, recomputes: bool = False) -> None:
        """Set the newest classes' prototypes, and those of old classes whose images were never seen there.

        Args:
            prototype_SJD: The newest classes' prototypes in all subspaces.
            recomputes: Whether to work out anew, from all classes that came since a subspace was made, what
                is there of the classes before it; else the newest subspace alone is filled.
        """
        newest = len(self.prototypes) - 1
        self.prototypes[:, self.own == newest] = prototype_SJD
        for subspace in range(1 if recomputes else newest, newest + 1):
            is_known = self.own >= subspace
            for task in range(subspace):
                own_CD = self.prototypes[task]
                self.prototypes[subspace, self.own == task] = synthesised(
                    own_CD[self.own == task], own_CD[is_known], self.prototypes[subspace, is_known]
                )

    def scores(self, feature_SBD: Tensor, other_weight: float) -> Tensor:
        """Return the weighted sums (B, C) of the cosines in all subspaces."""
        num_others = len(self.prototypes) - 1
        total_BC = feature_SBD.new_zeros(feature_SBD.shape[1], len(self.own))
        for subspace, prototype_CD in enumerate(self.prototypes):
            weight_C = torch.where(self.own == subspace, 1.0, other_weight / max(1, num_others))
            total_BC += weight_C * cosines(feature_SBD[subspace], prototype_CD)
        return total_BC


def synthesised(old_ID: Tensor, new_JD: Tensor, there_JD: Tensor) -> Tensor:
    """Return what old classes' prototypes (I, D) may be in a subspace where only the new classes' are known.

    The new classes' prototypes are given in the old classes' own subspace and ``there``.
    """
    return torch.softmax(cosines(old_ID, new_JD), dim=1) @ there_JD
