"""Take some of what a product multiplied, where there is more than a search needs.

Shape letters: G groups of a convolution, n rows, I columns of a row; B images, H heads, N tokens, E width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clbench.quant.parts.observed import rows_of

MOST_ROWS = 8192  # of a convolution: a map has many more places than an image has tokens
ROWS = 1024  # of a product's left operand that a search looks at; each gives all columns of the output


@dataclass(frozen=True)
class Rows:
    """Some of the rows that a layer multiplies its weight by."""

    inputs: Tensor  # (G, n, I)
    indices: Tensor  # (n,), which ones of all, image after image


def sampled_rows(
    layer: nn.Linear | nn.Conv2d, inputs: Tensor, generator: torch.Generator, among: Tensor | None = None
) -> Rows:
    """Return ROWS of a layer's rows, drawn without replacement, or all where there are no more.

    ``among`` are the indices to draw from; None, or none: all of them. No more than an image's rows are made
    at once.
    """
    an_image = rows_of(layer, inputs[:1]).shape[1]
    if among is None or not len(among):
        among = torch.arange(len(inputs) * an_image)
    chosen = among[drawn(len(among), ROWS, generator)]
    kept = []
    for image in torch.unique(chosen // an_image).tolist():
        within = chosen[chosen // an_image == image] % an_image
        kept.append(rows_of(layer, inputs[image : image + 1])[:, within.to(inputs.device)])
    return Rows(torch.cat(kept, dim=1), chosen.to(inputs.device))


def rows_for(layer: nn.Linear | nn.Conv2d, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rows (G, n, I) that a layer multiplies; of a convolution 8192 of them, from all images."""
    if isinstance(layer, nn.Linear):
        return rows_of(layer, inputs)
    of_each = -(-MOST_ROWS // len(inputs))
    parts = (rows_of(layer, image[None]) for image in inputs)  # one at a time: they are large
    return torch.cat([part[:, drawn(part.shape[1], of_each, generator)] for part in parts], dim=1)


def sampled_images(operand: Tensor, generator: torch.Generator) -> Tensor:
    """Return which images of an operand (B, H, N, E) to take: as many as have ROWS rows, but one at least."""
    return drawn(len(operand), max(1, ROWS // operand.shape[2]), generator).to(operand.device)


def drawn(total: int, most: int, generator: torch.Generator) -> Tensor:
    """Return ``most`` of the numbers below ``total``, ascending; all of them for 0 or more than there are."""
    if not 0 < most < total:
        return torch.arange(total)
    return torch.randperm(total, generator=generator)[:most].sort().values
