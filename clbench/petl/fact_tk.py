"""Factor the increments of all linear layers by Tucker's decomposition: all share the factors and one core.

S. Jie, Z.-H. Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023, arXiv
2212.03145, FacT-TK: the increment of slice k is ``s U M_k V`` with ``M_k[a, b] = sum_c C[a, b, c] P[c, k]``.
``factors.py`` says what is a slice.

Differs from the paper: the published code, and so the default, permutes the numbers of an MLP's cores. It
reads the array M (R, R, m) of fc1 as (R, m R), where the formula puts the m slices side by side, and uses the
transpose of the same for fc2. ``layout="slices"`` is the formula. Ranks, counts and what can be learnt are
alike, but what one layout has learnt is of no use in the other.

Parameters of a ViT of L blocks of width D and MLP ratio 4: 2 D r + 12 L r + r^3; 30,976 for ViT-B/16 with the
defaults.

Shape letters: R rank, I and O input and output slices of a layer, K = I O its slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import register
from clbench.petl.parts.factors import Factors, FactorTuning, Increment, SlicedLayer, sliced_layers

Layout = Literal["official", "slices"]


class TuckerCore(nn.Module):
    """C (R, R, R), shared by all increments of one width."""

    def __init__(self, rank: int, generator: torch.Generator) -> None:
        """Draw C Xavier-uniformly."""
        super().__init__()
        self.C = nn.Parameter(torch.empty(rank, rank, rank))
        nn.init.xavier_uniform_(self.C, generator=generator)


class Tucker(Increment):
    """An increment whose cores are mixtures of the R matrices in C."""

    def __init__(
        self,
        layer: SlicedLayer,
        factors: Factors,
        core: TuckerCore,
        *,
        scale: float,
        dropout: float,
        layout: Layout,
    ) -> None:
        """Share C, too; P are this layer's columns of the published P (R, 12 L)."""
        super().__init__(layer, factors, scale=scale, dropout=dropout)
        self.shared = (factors, core)
        self.P = nn.Parameter(torch.empty(len(core.C), layer.num_slices))
        self.arrangement = layer.name if layout == "official" else "slices"

    def core(self) -> Tensor:
        """Return M = C x_3 P, arranged into one matrix."""
        slices_RRK = torch.matmul(cast("TuckerCore", self.shared[1]).C, self.P)
        if self.arrangement == "mlp.fc1":
            return slices_RRK.flatten(1)
        if self.arrangement == "mlp.fc2":
            return slices_RRK.flatten(1).T
        rank = len(slices_RRK)
        slices_RRIO = slices_RRK.view(rank, rank, self.num_inputs, self.num_outputs)
        return slices_RRIO.permute(2, 0, 3, 1).reshape(self.num_inputs * rank, self.num_outputs * rank)


@register("fact-tk")
@dataclass(frozen=True)
class FacTTucker(FactorTuning):
    """Identity at the start, mergeable."""

    layout: Layout = "official"  # how the slices of an MLP lie in the core; "slices" is the formula's way

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put an increment on every linear layer; those of one width share U, V and C."""
        for width, layers in sliced_layers(backbone).items():
            factors, core = Factors(width, self.rank, generator), TuckerCore(self.rank, generator)
            num_slices = sum(layer.num_slices for layer in layers)
            bound = math.sqrt(6 / (self.rank + num_slices))  # Xavier's, of the P of all layers together
            for layer in layers:
                increment = Tucker(
                    layer, factors, core, scale=self.scale, dropout=self.dropout, layout=self.layout
                )
                nn.init.uniform_(increment.P, -bound, bound, generator=generator)
                yield layer.site, increment
