"""Turn a grid a channel into one grid for all, with a ratio and an offset a channel around it.

LayerNorm re-parameterisation, Z. Li et al., "RepQ-ViT", ICCV 2023, arXiv 2212.08254: with scales s_i and zero
points z_i of the channels,

    s = mean(s_i),  z = round(mean(z_i)),  ratio_i = s_i / s,  offset_i = -z_i s_i / ratio_i + z s,

so that x' = x / ratio - offset has one grid (s, z), and a layer computes the same in float with

    W' = W diag(ratio),    bias' = bias + W' offset.

The paper puts x' into the norm before the layer, whose weight becomes gamma / ratio and whose bias becomes
beta / ratio - offset: ``folded`` does. A low-bit layer keeps ratio and offset itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """One grid, and what stands around it."""

    scale: Tensor  # s, ()
    zero: Tensor  # z, (), an integer
    ratio: Tensor  # (I,)
    offset: Tensor  # (I,)

    def of_input(self, inputs: Tensor) -> Tensor:
        """Return x' of inputs (..., I)."""
        return inputs / self.ratio - self.offset

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return W' of a weight (O, I)."""
        return weight * self.ratio

    def of_bias(self, weight: Tensor) -> Tensor:
        """Return what the bias gains, (O,), from a weight (O, I) that is for x'."""
        return weight @ self.offset


def one_grid(scale: Tensor, zero: Tensor) -> Channels:
    """Return what grids a channel, scales and zero points (I,), become."""
    one, middle = scale.mean(), torch.round(zero.mean())
    ratio = scale / one
    return Channels(one, middle, ratio, -zero * scale / ratio + middle * one)


def folded(gamma: Tensor, beta: Tensor, channels: Channels) -> tuple[Tensor, Tensor]:
    """Return the weight and bias (I,) of a LayerNorm that gives x' where it gave x."""
    return gamma / channels.ratio, beta / channels.ratio - channels.offset
