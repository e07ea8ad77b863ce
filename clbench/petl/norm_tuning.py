"""Train the scale and shift of every normalisation layer of the backbone, and nothing else.

B. Zhao et al., "Tuning LayerNorm in Attention", ICLR 2024, arXiv 2312.11420; here the final norm is trained,
too. The norms of single queries and keys that some ViTs have stay frozen, and so do the statistics of a batch
norm. With ``scope=final`` the final norm alone is trained, which is our choice: then no gradient enters a
block.

Parameters of a ViT of L blocks of width D: 4 L D + 2 D; 38,400 for ViT-B/16, of which 1,536 are the final
norm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from clbench.backbones.backbone import Backbone
from clbench.options import LATER
from clbench.petl import register
from clbench.petl.parts.norms import norm_parameters
from clbench.petl.parts.tuning import Tuning

IN_HEADS = ("q_norm", "k_norm")  # timm's names


@register("norm-tuning")
@dataclass(frozen=True)
class NormTuning(Tuning):
    """Identity at the start; there is nothing to merge."""

    scope: Annotated[Literal["all", "final"], LATER] = (
        "all"  # of the norms: all, or the one behind the blocks
    )

    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the names of the parameters of every norm between layers, or of the last."""
        names = [name for name in norm_parameters(backbone) if name.split(".")[-2] not in IN_HEADS]
        if self.scope == "all":
            return names
        final = {id(parameter) for parameter in backbone.site("norm").parameters()}
        return [name for name in names if id(backbone.get_parameter(name)) in final]
