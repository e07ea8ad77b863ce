"""Train every bias of the backbone, and nothing else.

E. Ben Zaken, S. Ravfogel, Y. Goldberg, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
Masked Language-models", ACL 2022, arXiv 2106.10199. The biases of norms count as biases. The statistics of a
batch norm stay frozen.

Parameters of a ViT of L blocks of width D: 11 L D + 2 D; 102,912 for ViT-B/16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clbench.backbones.backbone import Backbone
from clbench.petl import register
from clbench.petl.parts.tuning import Tuning


@register("bitfit")
@dataclass(frozen=True)
class BitFit(Tuning):
    """Identity at the start; there is nothing to merge."""

    def tuned(self, backbone: Backbone) -> Sequence[str]:
        """Return the names of all biases but a classifier's."""
        return [name for name in backbone.tensor_names() if name.endswith(".bias")]
