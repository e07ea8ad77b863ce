"""Hold what ``fact-tt`` and ``fact-tk`` share: a factored increment of every linear layer of a transformer.

S. Jie, Z.-H. Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023, arXiv
2212.03145. The increments of all linear layers, cut into D x D slices, are stacked into one tensor, which is
factored: U and V serve all slices, and each has a small core of its own between them. Inputs x, as rows, give

    y = x W + s x U core V.

Attention has the slices q, k, v and output, an MLP of ratio m has m output slices (fc1) and m input slices
(fc2); biases are untouched. The cores of a layer form one matrix (I R, O R), so a layer costs three products
whatever its number of slices.

Differs from the paper: the dropout in the low-rank path is that of the published code.
On a Swin, whose widths differ, there is one tensor for each width (our choice).

Shape letters: D width, R rank, I and O input and output slices of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.errors import UserError
from clbench.petl import VTAB_RECIPE, Petl
from clbench.petl.parts.initialise import kaiming_uniform

SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class UnevenLayerError(UserError, ValueError):
    """A linear layer that is not made of slices as wide as the network."""


@dataclass(frozen=True)
class FactorTuning(Petl, ABC):
    """FacT without the choice of a decomposition: identity at the start, mergeable."""

    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = VTAB_RECIPE

    rank: Annotated[int, Field(ge=1)] = 16  # R
    scale: float = 1.0  # s, not trained; the paper searches {0.01, 0.1, 1, 10, 100} for each data set
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the values dropped before V


class Factors(nn.Module):
    """U (D, R) and V (R, D) of all increments of one width; zero at the start because V is."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        """Draw U from U(-1/sqrt(D), 1/sqrt(D))."""
        super().__init__()
        self.U = nn.Parameter(torch.empty(width, rank))
        self.V = nn.Parameter(torch.zeros(rank, width))
        kaiming_uniform(self.U.T, generator)


@dataclass(frozen=True)
class SlicedLayer:
    """A linear layer as a matrix of I x O slices, each (D, D)."""

    name: str  # of its site in a block
    site: Site
    num_inputs: int  # I
    num_outputs: int  # O

    @property
    def num_slices(self) -> int:
        """I O."""
        return self.num_inputs * self.num_outputs


def sliced_layers(backbone: Backbone) -> dict[int, list[SlicedLayer]]:
    """Return the adapted layers of every width D; UnevenLayerError for one that D does not divide."""
    layers: dict[int, list[SlicedLayer]] = {}
    for block in backbone.blocks:
        for name in SITES:
            layers.setdefault(block.width, []).append(sliced(name, block[name], block.width))
    return layers


def sliced(name: str, site: Site, width: int) -> SlicedLayer:
    """Cut a layer into slices; UnevenLayerError where that is impossible."""
    layer = cast("nn.Linear", site.layer)
    if layer.in_features % width or layer.out_features % width:
        raise UnevenLayerError(
            f"FacT cuts layers into slices of the block's width {width}, but {site.name} has"
            f" {layer.in_features} inputs and {layer.out_features} outputs; both must be multiples of it"
        )
    return SlicedLayer(name, site, layer.in_features // width, layer.out_features // width)


class Increment(Branch, ABC):
    """``y + s x U core V``."""

    def __init__(self, layer: SlicedLayer, factors: Factors, *, scale: float, dropout: float) -> None:
        """Share the factors with the other layers of this width."""
        super().__init__()
        self.num_inputs, self.num_outputs = layer.num_inputs, layer.num_outputs
        self.scale, self.dropout = scale, dropout
        self.shared: tuple[nn.Module, ...] = (factors,)

    @property
    def factors(self) -> Factors:
        """U and V."""
        return cast("Factors", self.shared[0])

    @abstractmethod
    def core(self) -> Tensor:
        """Return the cores of this layer's slices as one matrix (I R, O R)."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the increment of the output, (..., O D), for inputs (..., I D)."""
        width, rank = self.factors.U.shape
        narrow = (inputs.reshape(-1, width) @ self.factors.U).view(-1, self.num_inputs * rank)
        mixed = F.dropout(narrow @ self.core(), self.dropout, self.training).view(-1, rank)
        return torch.addmm(output.reshape(-1, width), mixed, self.factors.V, alpha=self.scale).view_as(output)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight + s (U core V)^T, slice by slice, and the bias as it is."""
        rank = len(self.factors.V)
        cores_IROR = self.core().reshape(self.num_inputs, rank, self.num_outputs, rank)
        slices = torch.einsum("dr,irop,pe->oeid", self.factors.U, cores_IROR, self.factors.V)
        return weight + self.scale * slices.reshape_as(weight), bias
