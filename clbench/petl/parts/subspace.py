"""Update the key and value projections of a block within a subspace that is chosen before the training.

Y.-S. Liang, W.-J. Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024,
arXiv 2404.00228. On a fused qkv layer, with S what earlier tasks learnt,

    rows of K += S_k + A_k B,   rows of V += S_v + A_v B.

Only A is trained. B's rows are directions of the new task's inputs, orthogonal to those of the old tasks', so
that the update leaves an old task's inputs alone. Which directions the old inputs take is kept as the
projection onto them. With H the inputs as columns, directions and their energies are the left singular
vectors and the squared singular values of H H^T, without its old part: the published code decomposes that in
the place of H.

Shape letters: B batch, N tokens, D width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.data.inputs import Feed
from clbench.petl import Petl

MEANINGFUL = 1e-10  # share of the whole energy below which a direction is rounding of float32 projections


class SubspaceUpdate(Branch):
    """The update of one block, and what is known of the inputs of its old tasks."""

    reweights: ClassVar[bool] = True
    down: Tensor
    learnt: Tensor
    old: Tensor

    def __init__(self, width: int, rank: int) -> None:
        """Start with A = B = S = 0 and without old inputs."""
        super().__init__()
        self.key_up, self.value_up = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))  # A (D, R)
        self.register_buffer("down", torch.zeros(rank, width))  # B (R, D)
        self.register_buffer("learnt", torch.zeros(2 * width, width))  # S (2 D, D), keys above values
        self.register_buffer("old", torch.zeros(width, width))  # projection (D, D) onto old inputs

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight with S + A B added to its last two thirds of rows, and the bias as it is."""
        update = self.learnt + self.trained()
        return weight + torch.cat((torch.zeros_like(update[: len(self.old)]), update)), bias

    def trained(self) -> Tensor:
        """Return A B, keys above values (2 D, D)."""
        return torch.cat((self.key_up, self.value_up)) @ self.down

    @torch.no_grad()
    def aim(self, moment_DD: Tensor) -> None:
        """Let B's rows be the main directions of new inputs beside the old ones, of length 1 / sqrt(3)."""
        _, directions = self._beside(moment_DD)
        main_DR = directions[:, : len(self.down)]
        # once more, as directions in which hardly anything is left are rounding
        main_DR = main_DR - self.old.double().cpu() @ main_DR
        self.down.copy_(main_DR.T / math.sqrt(3))

    @torch.no_grad()
    def protect(self, moment_DD: Tensor, share: float) -> None:
        """Count more directions as old, the main ones first, until the old have this share of the energy."""
        energies, directions = self._beside(moment_DD)
        whole = moment_DD.double().square().sum().cpu()
        meaningful = energies > MEANINGFUL * whole
        # before this direction, what is old was too little
        is_short = energies.cumsum(0) - energies < energies.sum() - (1 - share) * whole
        added = directions[:, is_short & meaningful]
        self.old.add_((added @ added.T).to(self.old))

    @torch.no_grad()
    def fold(self) -> None:
        """Add A B to S, and begin with A = 0 again: the output stays what it was."""
        self.learnt.add_(self.trained())
        self.key_up.zero_()
        self.value_up.zero_()

    def _beside(self, moment_DD: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (D,), falling, and directions (D, D) of what is not old; in float64, on the CPU."""
        moment_DD = moment_DD.double().cpu()
        rest_DD = moment_DD - self.old.double().cpu() @ moment_DD
        energies, directions = torch.linalg.eigh(rest_DD @ rest_DD.T)
        return energies.flip(0).clamp_min(0), directions.flip(1)


@dataclass(frozen=True)
class SubspaceUpdates(Petl):
    """One update a block: identity at the start, mergeable."""

    mergeable: ClassVar[bool] = True

    rank: int  # R

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put an update on every fused qkv layer."""
        for block in backbone.blocks:
            qkv = block["attn.qkv"]
            yield qkv, SubspaceUpdate(qkv.width // 3, self.rank)


@torch.no_grad()
def input_moments(backbone: Backbone, images: Feed) -> list[Tensor]:
    """Return the mean over images and tokens of h h^T (D, D), for the input h of each block's qkv layer."""
    sites = [block["attn.qkv"] for block in backbone.blocks]
    totals = [torch.zeros(site.width // 3, site.width // 3, device=backbone.device) for site in sites]

    def add(total: Tensor, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2).float()
        total.addmm_(rows.T, rows, alpha=1 / (len(images) * inputs[0][0, ..., 0].numel()))

    with ExitStack() as hooks:
        for site, total in zip(sites, totals, strict=True):
            hooks.callback(site.register_forward_pre_hook(partial(add, total)).remove)
        for batch in images:
            backbone(batch.images)
    return totals
