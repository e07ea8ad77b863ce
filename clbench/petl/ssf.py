"""Scale and shift the channels after every operation of the backbone.

D. Lian, D. Zhou, J. Feng, X. Wang, "Scaling & Shifting Your Features: A New Baseline for Efficient Model
Tuning" (SSF), NeurIPS 2022, arXiv 2210.08823: ``gamma * z + beta`` after the patch embedding, each norm and
each linear layer of the attention and the MLP, and the final norm. All of it folds into the layer before.

Not the identity at the start: gamma ~ N(1, 0.02), beta ~ N(0, 0.02), as published.
Parameters of a ViT of L blocks of width D: 22 L D + 4 D; 205,824 for ViT-B/16.

In a ConvNet the operations are the convolutions, norms and linear layers inside blocks, which is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.petl import Petl, register

OPERATIONS = (
    *("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"),  # transformers
    *("conv", "norm", "conv1", "conv2", "conv3", "norm3"),  # ConvNets
)


class ScaleShift(Branch):
    """``gamma * z + beta``, channel by channel."""

    def __init__(self, site: Site, std: float, generator: torch.Generator) -> None:
        """Draw gamma ~ N(1, std^2) and beta ~ N(0, std^2)."""
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(site.width).normal_(1, std, generator=generator))
        self.beta = nn.Parameter(torch.empty(site.width).normal_(0, std, generator=generator))
        self.trailing = (1, 1) if site.channels_first else ()  # dimensions after the channels

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Scale and shift what the layer gives."""
        return output * self.gamma.view(-1, *self.trailing) + self.beta.view(-1, *self.trailing)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return diag(gamma) W and gamma b + beta; a norm's affine weight is its own diagonal."""
        scaled = self.gamma.view(-1, *[1] * (weight.ndim - 1)) * weight
        return scaled, self.beta.clone() if bias is None else self.gamma * bias + self.beta


@register("ssf")
@dataclass(frozen=True)
class SSF(Petl):
    """Not the identity at the start, mergeable."""

    identity_at_start: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 5e-3, "weight_decay": 5e-5}

    std: Annotated[float, Field(ge=0)] = 0.02  # of the values drawn for gamma and beta

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one pair of vectors after every operation."""
        outside = [backbone.sites[name] for name in ("patches", "norm") if name in backbone.sites]
        inside = [block[name] for block in backbone.blocks for name in OPERATIONS if block.has(name)]
        for site in [*outside, *inside]:
            yield site, ScaleShift(site, self.std, generator)
