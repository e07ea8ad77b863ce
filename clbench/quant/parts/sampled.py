"""Draw what a search looks at of many rows, so that it takes bounded time and memory.

Shape letters: G groups of a convolution, n rows, I columns of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.quant.parts.observed import rows_of

MOST_ROWS = 8192  # of a convolution: a map has many more places than an image has tokens


def rows_for(layer: nn.Linear | nn.Conv2d, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rows (G, n, I) that a layer multiplies; of a convolution 8192 of them, from all images."""
    if isinstance(layer, nn.Linear):
        return rows_of(layer, inputs)
    of_each = -(-MOST_ROWS // len(inputs))
    parts = (rows_of(layer, image[None]) for image in inputs)  # one at a time: they are large
    return torch.cat([part[:, drawn(part.shape[1], of_each, generator)] for part in parts], dim=1)


def drawn(num: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Return the indices of ``wanted`` out of ``num`` things; of all if that is 0 or more than there are."""
    if not 0 < wanted < num:
        return torch.arange(num)
    return torch.randperm(num, generator=generator)[:wanted]
