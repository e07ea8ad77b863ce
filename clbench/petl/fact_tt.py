"""Factor the increments of all linear layers as a tensor train: two factors for all, one small core a slice.

S. Jie, Z.-H. Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023, arXiv
2212.03145, FacT-TT: the increment of slice k is ``s U core_k V``. ``factors.py`` says what is a slice.

Parameters of a ViT of L blocks of width D and MLP ratio 4: 2 D r + 12 L r^2; 61,440 for ViT-B/16 with the
defaults, and 8,448 with rank=4, the paper's 8K version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.factors import Factors, FactorTuning, Increment, SlicedLayer, sliced_layers
from clbench.petl.parts.initialise import kaiming_uniform


class TensorTrain(Increment):
    """An increment whose cores are free."""

    def __init__(self, layer: SlicedLayer, factors: Factors, *, scale: float, dropout: float) -> None:
        """Allocate the cores; those of the layer's slices are one matrix (I R, O R)."""
        super().__init__(layer, factors, scale=scale, dropout=dropout)
        rank = len(factors.V)
        self.cores = nn.Parameter(torch.empty(layer.num_inputs * rank, layer.num_outputs * rank))

    def core(self) -> Tensor:
        """Return the cores as they are."""
        return self.cores


@register("fact-tt")
@dataclass(frozen=True)
class FacTTensorTrain(FactorTuning):
    """Identity at the start, mergeable."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put an increment on every linear layer; cores start as a linear layer's weight does."""
        for width, layers in sliced_layers(backbone).items():
            factors = Factors(width, self.rank, generator)
            for layer in layers:
                increment = TensorTrain(layer, factors, scale=self.scale, dropout=self.dropout)
                kaiming_uniform(increment.cores.T, generator)
                yield layer.site, increment
