"""Train the scale and shift of every normalisation layer of the backbone, and nothing else.

B. Zhao et al., "Tuning LayerNorm in Attention", ICLR 2024, arXiv 2312.11420; here the final norm is trained,
too. The norms of single queries and keys that some ViTs have stay frozen, and so do the statistics of a batch
norm.

Parameters of a ViT of L blocks of width D: 4 L D + 2 D; 38,400 for ViT-B/16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clbench.backbones.backbone import Backbone
from clbench.petl import register
from clbench.petl.parts.norms import norm_parameters
from clbench.petl.parts.tuning import Tuning

IN_HEADS = ("q_norm", "k_norm")  # timm's names


@register("norm-tuning")
@dataclass(frozen=True)
class NormTuning(Tuning):
    """Identity at the start; there is nothing to merge."""

    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the names of the parameters of every norm between layers."""
        return [name for name in norm_parameters(backbone) if name.split(".")[-2] not in IN_HEADS]
