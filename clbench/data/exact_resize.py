"""Resize uint8 images by matrix products, to the very grey levels of torch's own antialiased resize.

On a CPU torch shrinks and enlarges uint8 images in whole numbers, as Pillow-SIMD does: the weights of a pass
are rounded to multiples of 2^-p, with the largest p at which all fit into 16 bits; columns are mixed first,
then rows, and each pass ends in whole grey levels. Sums of so few such numbers are exact in double precision,
so that two matrix products give the same levels, bit for bit, wherever they are computed: that is what goes
into an exported graph, where torch's operator for it cannot go.

Shape letters: B batch, C channels, H W source height and width, S output size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clbench.data.transforms import KERNELS

LARGEST = 2**15  # that a weight in 16 bits stays below
MOST_DIGITS = 22  # binary ones behind the point of a weight


@dataclass(frozen=True)
class WholeWeights:
    """Weights (S, source), multiplied by ``unit``, as whole numbers in double precision."""

    values: Tensor
    unit: float  # 2^p


def whole_weights(source: int, size: int, interpolation: str) -> WholeWeights:
    """Return the weights by which one pass makes ``size`` samples of ``source`` ones."""
    kernel, radius = KERNELS[interpolation]
    scale = source / size
    stretch = max(scale, 1.0)
    centre_S1 = ((torch.arange(size, dtype=torch.float64) + 0.5) * scale)[:, None]
    pixel = torch.arange(source, dtype=torch.float64)
    # the samples that count begin and end at whole numbers, found by cutting the fraction off
    first_S1 = (centre_S1 - radius * stretch + 0.5).trunc().clamp_min(0)
    last_S1 = (centre_S1 + radius * stretch + 0.5).trunc()
    weight = kernel(((pixel + 0.5 - centre_S1) / stretch).abs())
    weight = weight.where((pixel >= first_S1) & (pixel < last_S1), 0.0)
    weight = weight / weight.sum(dim=1, keepdim=True)
    unit = 1.0
    while unit < 2.0**MOST_DIGITS and int(0.5 + float(weight.max()) * 2 * unit) < LARGEST:
        unit *= 2
    rounded = (weight * unit).abs().add(0.5).trunc().copysign(weight)  # halves away from zero
    return WholeWeights(rounded, unit)


def resize_exactly(images: Tensor, columns: WholeWeights, rows: WholeWeights) -> Tensor:
    """Resize whole grey levels (B, C, H, W) of any type to whole ones (B, C, S, S) in double precision."""
    wide = images.double() @ columns.values.T
    levels = _in_levels(wide, columns.unit)
    return _in_levels(rows.values @ levels, rows.unit)


def _in_levels(sums: Tensor, unit: float) -> Tensor:
    """Round sums of levels times whole weights to levels, halves upwards."""
    return ((sums + unit / 2) / unit).floor().clamp(0, 255)
