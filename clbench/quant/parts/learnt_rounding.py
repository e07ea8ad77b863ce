"""Learn which way weights are rounded, and the scales of activations, before both are fixed.

AdaRound (M. Nagel et al., ICML 2020, arXiv 2004.10568) and BRECQ (Y. Li et al., ICLR 2021, arXiv 2102.05426),
as AdaLog trains with them: each weight has a variable alpha,

    w^ = s (clamp(floor(w / s) + h + z, 0, L - 1) - z),    h = clamp(1.2 sigmoid(alpha) - 0.1, 0, 1),

that starts where h is the fractional part of w / s, and is pushed towards 0 or 1 by sum(1 - |2 h - 1|^beta);
in the end h is 1 where alpha >= 0 and 0 elsewhere. Activations are rounded, and their gradient goes through
``round`` as if it were not there, to their values and their scale; AdaLog's levels are s 2^(-c q / r) then,
without the table of integers.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn

from clbench.quant.parts.adaptive_log import FLOOR, AdaptiveLog, R, logs
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform

STRETCH = 1.2  # of the sigmoid, so that h reaches 0 and 1


class LearntWeight(nn.Module):
    """A weight (O, I) on the grids of a stored one, rounded up or down as is learnt."""

    def __init__(self, weight: Tensor, stored: LowBitWeight) -> None:
        """Start with the weight in float."""
        super().__init__()
        self.bits = stored.bits
        self.scale, self.zero = stored.scale, stored.zero  # (O, 1) each
        self.below = torch.floor(weight / self.scale)
        share = (weight / self.scale - self.below).clamp(1e-4, 1 - 1e-4)
        edge = (STRETCH - 1) / 2
        self.alpha = nn.Parameter(torch.logit((share + edge) / STRETCH))

    def up(self) -> Tensor:
        """Return h, how far each weight is rounded up, in 0..1."""
        return (STRETCH * self.alpha.sigmoid() - (STRETCH - 1) / 2).clamp(0, 1)

    def forward(self) -> Tensor:
        """Return the weight between its two neighbours."""
        return (self._codes(self.up()) - self.zero) * self.scale

    def indecision(self, beta: float) -> Tensor:
        """Return what pushes h towards 0 and 1."""
        return (1 - (2 * self.up() - 1).abs().pow(beta)).sum()

    def stored(self) -> LowBitWeight:
        """Return the weight, each value at one of its neighbours."""
        codes = self._codes((self.alpha >= 0).float())
        return LowBitWeight.of(codes.detach(), self.scale, self.zero, self.bits)

    def _codes(self, up: Tensor) -> Tensor:
        return torch.clamp(self.below + up + self.zero, 0, 2**self.bits - 1)


class LearntScale(nn.Module):
    """A rounding of activations whose scale learns."""

    def __init__(self, rounding: Rounding, *, is_fixed: bool = False) -> None:
        """Start with the rounding's own scale, and keep to it if ``is_fixed``."""
        super().__init__()
        self.rounding = rounding
        self.scale = nn.Parameter(rounding.get_buffer("scale").clone(), requires_grad=not is_fixed)

    def forward(self, values: Tensor) -> Tensor:
        """Round the values."""
        return relaxed(self.rounding, values.float(), self.scale).to(values.dtype)

    def store(self) -> None:
        """Give the rounding the scale that was learnt."""
        self.rounding.get_buffer("scale").copy_(self.scale.detach())


@singledispatch
def relaxed(rounding: Rounding, values: Tensor, scale: Tensor) -> Tensor:
    """Return values rounded with another scale, with gradients for both."""
    raise TypeError(f"{type(rounding).__name__} has no scale that learns")


@relaxed.register
def _(rounding: Uniform, values: Tensor, scale: Tensor) -> Tensor:
    codes = torch.clamp(_through(values / scale) + rounding.zero, 0, rounding.num_levels - 1)
    return (codes - rounding.zero) * scale


@relaxed.register
def _(rounding: AdaptiveLog, values: Tensor, scale: Tensor) -> Tensor:
    steps = torch.clamp(torch.log2(scale) - logs(values), 0, FLOOR) * R / rounding.q
    codes = _through(steps)
    levels = scale * torch.exp2(-codes * rounding.q / R)
    return torch.where(codes < rounding.num_levels, levels, 0.0)


def _through(values: Tensor) -> Tensor:
    """Return the values rounded to integers, with the gradient of the identity."""
    return values + (torch.round(values) - values).detach()
