"""Search scales, and what goes with them, by trying a coarse grid and refining around the best of it.

FPCS, fast progressive combining search, of AdaLog (Z. Wu et al., ECCV 2024, arXiv 2407.12951): of C pairs of
a scale and a zero point (or q) the best k are kept, and around each of them m = C / k scales are tried at

    scale + linspace(-1/2, 1/2, m) spacing,    spacing <- spacing / (m - 1/2),

with the same zero point; p - 1 times. Many granules (channels, heads) are searched at once, each by itself.

Differs from the paper:
- the best pair of all steps is taken, not of the last one: with an even m no pair is tried again, so that the
  last step may have lost what an earlier one had found;
- it ends with the first step that lessens the error, summed over all granules, by less than a thousandth.

All tensors are (C, ...), C candidates by granules, but for the spacing (...) of each granule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST_GAIN = 1e-3  # of the error, for which it is worth to go on

# Tells of scales and what goes with them, (C, ...) each, the errors (C, ...).
Error = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Candidates:
    """What is tried."""

    scale: Tensor  # (C, ...)
    partner: Tensor  # (C, ...): zero points, or q
    spacing: Tensor  # (...), between neighbouring scales
    smallest: float = 0.0  # that a scale may be

    def at(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale and the partner (...) of one candidate for each granule, by its index."""
        return self.scale.gather(0, where[None])[0], self.partner.gather(0, where[None])[0]

    def around(self, kept: Tensor, num: int) -> Candidates:
        """Return ``num`` scales around each of the candidates kept (k, ...), by their indices."""
        middle, partner = self.scale.gather(0, kept)[:, None], self.partner.gather(0, kept)[:, None]
        shares = torch.linspace(-0.5, 0.5, num, device=kept.device)
        scale = (middle + _column(shares, self.spacing) * self.spacing).clamp(min=self.smallest)
        spacing = self.spacing / (num - 0.5)
        return replace(
            self,
            scale=scale.flatten(0, 1),
            partner=partner.expand_as(scale).flatten(0, 1),
            spacing=spacing,
        )


def crossed(scales: Tensor, partners: Tensor, *, smallest: float = 0.0) -> Candidates:
    """Return all pairs of evenly spaced scales (S, ...) and partners (P, ...)."""
    shape = (len(scales), len(partners), *scales.shape[1:])
    scale = scales.clamp(min=smallest)[:, None].expand(shape)
    partner = partners[None].expand(shape)
    return Candidates(scale.flatten(0, 1), partner.flatten(0, 1), scales[1] - scales[0], smallest)


def uniform_candidates(
    low: Tensor, high: Tensor, middle: Tensor, *, bits: int, num: int, num_zeros: int, smallest: float = 0.0
) -> Candidates:
    """Return a grid of scales and zero points for values between ``low`` and ``high`` (...) wide.

    The zero points are the ``num_zeros`` around ``middle`` (...), all of them inside 0..L - 1.
    """
    num_levels = 2**bits
    scales = spread(low, high, num // num_zeros) / (num_levels - 1)
    first = torch.clamp(middle - num_zeros // 2, 0, num_levels - num_zeros)
    zeros = first + _column(torch.arange(num_zeros, device=low.device), first)
    return crossed(scales, zeros, smallest=smallest)


def spread(low: Tensor, high: Tensor, num: int) -> Tensor:
    """Return ``num`` values from low to high (...), evenly spaced: (num, ...)."""
    shares = torch.linspace(0, 1, num, device=low.device)
    return low + _column(shares, low) * (high - low)


def best(candidates: Candidates, error: Error, *, steps: int, around: int) -> tuple[Tensor, Tensor]:
    """Return the scale and its partner, (...) each, with the least error; ``around`` is m.

    One step tries the candidates as they are.
    """
    errors = error(candidates.scale, candidates.partner)
    least, where = errors.min(dim=0)
    scale, partner = candidates.at(where)
    for _ in range(steps - 1):
        kept = errors.topk(len(errors) // around, dim=0, largest=False).indices
        candidates = candidates.around(kept, around)
        errors = error(candidates.scale, candidates.partner)
        lowest, where = errors.min(dim=0)
        gain = (least - lowest).clamp(min=0)
        new_scale, new_partner = candidates.at(where)
        scale = torch.where(gain > 0, new_scale, scale)
        partner = torch.where(gain > 0, new_partner, partner)
        least = least - gain
        if gain.sum() <= LEAST_GAIN * least.sum():
            break
    return scale, partner


def _column(shares: Tensor, like: Tensor) -> Tensor:
    """Return shares (m,) as (m, 1, ...), to go with (...)."""
    return shares.view(-1, *[1] * like.ndim)
