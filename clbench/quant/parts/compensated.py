"""Round a weight column by column, and let the columns that follow make up for each one's error.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, arXiv 2210.17323. With H = X^T X / n of the inputs X (n, I), and U the
upper Cholesky factor of H^-1,

    error_i = (w_i - round(w_i)) / U_ii,    w_j -= error_i U_ij  for all j > i,

for columns from the largest H_ii to the least. 1 % of the mean H_ii is added to each, so that fewer inputs
than columns are enough. As there, columns change in blocks: inside one at once, behind it when it is done.

Shape letters: C groups of a convolution (1 of a linear layer), R rows in each, I columns, G groups a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.grids import Grid, codes_at, places_of

DAMPING = 0.01  # of the mean H_ii
BLOCK = 64  # columns


def compensated_codes(weight_CRI: Tensor, grid_CRG: Grid, width: int, gram_CII: Tensor, bits: int) -> Tensor:
    """Return codes (C, R, I) on grids whose groups are ``width`` columns; ``gram_CII`` is H."""
    order_CI, factor_CII = _factored(gram_CII)
    order_CIR = order_CI[..., None].expand(weight_CRI.mT.shape)
    left_CIR = weight_CRI.mT.gather(1, order_CIR)  # what is still to be rounded
    codes_CIR = torch.empty_like(left_CIR)
    scale_CIR, zero_CIR = (held.float().mT.gather(1, order_CIR // width) for held in grid_CRG)
    for start in range(0, left_CIR.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        errors = []
        for column in range(start, min(start + BLOCK, left_CIR.shape[1])):
            value, scale, zero = (held[:, column] for held in (left_CIR, scale_CIR, zero_CIR))
            code = codes_at(places_of(value, scale, zero), bits)
            error = (value - scale * (code - zero)) / factor_CII[:, column, column, None]
            rest = slice(column + 1, start + BLOCK)
            left_CIR[:, rest] -= factor_CII[:, column, rest, None] * error[:, None]
            codes_CIR[:, column] = code
            errors.append(error)
        left_CIR[:, start + BLOCK :] -= factor_CII[:, block, start + BLOCK :].mT @ torch.stack(errors, dim=1)
    return torch.empty_like(codes_CIR).scatter_(1, order_CIR, codes_CIR).mT


def _factored(gram_CII: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order of the columns (C, I), and U of the columns so ordered."""
    diagonal = gram_CII.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    rows = gram_CII.gather(1, order[..., None].expand_as(gram_CII))
    ordered = (
        rows.gather(2, order[:, None].expand_as(gram_CII)).cpu().double()
    )  # not every device has doubles
    added = DAMPING * ordered.diagonal(dim1=1, dim2=2).mean(dim=1)
    added = torch.where(added == 0, 1, added)  # of inputs that are all 0 any weight is right
    damped = ordered + added[:, None, None] * torch.eye(ordered.shape[1], dtype=ordered.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return order, torch.linalg.cholesky(inverse, upper=True).to(gram_CII)
