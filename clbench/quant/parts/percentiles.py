"""Choose a range between percentiles: the one of three that rounds what it was taken from best.

Z. Li, J. Xiao, L. Yang, Q. Gu, "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
Transformers", ICCV 2023, arXiv 2212.08254: for p in {.999, .9999, .99999} the range is from the quantile
1 - p to the quantile p, and the p with the least squared error is taken. Each row of a matrix (K, n) has its
own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.even_grids import asymmetric
from clbench.quant.parts.logarithmic import Logarithmic
from clbench.quant.parts.quantiles import quantile
from clbench.quant.parts.rounding import Rounding
from clbench.quant.parts.uniform import Uniform

PERCENTILES = (0.999, 0.9999, 0.99999)


def even_grids(values: Tensor, bits: int) -> Uniform:
    """Return an asymmetric grid for each row of values (K, n), with scales and zero points (K, 1)."""
    ordered = values.sort(dim=1).values
    tried = [asymmetric(quantile(ordered, 1 - p), quantile(ordered, p), bits) for p in PERCENTILES]
    best = _best(tried, values)
    scales, zeros = torch.stack([grid.scale for grid in tried]), torch.stack([grid.zero for grid in tried])
    return Uniform(bits, scale=scales.gather(0, best)[0], zero=zeros.gather(0, best)[0])


def log_sqrt2(values: Tensor, bits: int) -> Logarithmic:
    """Return a grid of two steps an octave for all values, its scale one of their percentiles."""
    ordered = values.flatten()[None].sort(dim=1).values
    two = values.new_tensor(2.0)
    tops = [quantile(ordered, p)[0, 0] for p in PERCENTILES]
    tried = [Logarithmic(bits, scale=top, steps=two) for top in tops if top > 0]
    return tried[int(_best(tried, ordered))] if tried else Logarithmic(bits, scale=two / 2, steps=two)


def _best(tried: list[Uniform] | list[Logarithmic], values: Tensor) -> Tensor:
    """Return the index of the best rounding, for each row of values (K, n): (1, K, 1)."""
    errors = torch.stack([_squared_error(rounding, values) for rounding in tried])
    return errors.argmin(dim=0, keepdim=True)


def _squared_error(rounding: Rounding, values: Tensor) -> Tensor:
    return rounding.rounded(values).sub_(values).square_().sum(dim=1, keepdim=True)
