"""Round a weight column by column, and let the columns that follow make up for each one's error.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, arXiv 2210.17323, in the form of J. Chee, Y. Cai, V. Kuleshov, C. De Sa,
"QuIP", NeurIPS 2023, arXiv 2307.13304, which shows that it is the same. With H = X^T X / n = R R^T of the
inputs X (n, I), R upper triangular, a row w is rounded to w - e by

    v_i = w_i + sum over j < i of e_j R_ji / R_ii,    e_i = w_i - round(v_i),

and the squared error of its output is e H e^T = sum of R_ii^2 (v_i - round(v_i))^2. Columns go from the
largest H_ii to the least; 1 % of the mean H_ii is added to each, so that fewer inputs than columns will do.
As in GPTQ, an error reaches the columns of its block at once, and those behind it when the block is done.

Shape letters: C groups of a convolution (1 of a linear layer), R rows in each, I columns, G groups a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.grids import Grid, codes_at, places_of

DAMPING = 0.01  # of the mean H_ii
BLOCK = 64  # columns


def compensated_codes(
    weight_CRI: Tensor, grid_CRG: Grid, width: int, gram_CII: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Return codes (C, R, I) and the squared errors of the outputs (C, R).

    A grid's groups are ``width`` columns; ``gram_CII`` is H.
    """
    order_CI, ahead_CII, weight_of_CI = _factored(gram_CII)
    order_CIR = order_CI[..., None].expand(weight_CRI.mT.shape)
    weight_CIR = weight_CRI.mT.gather(1, order_CIR)
    scale_CIR, zero_CIR = (held.float().mT.gather(1, order_CIR // width) for held in grid_CRG)
    wanted_CIR, codes_CIR = weight_CIR.clone(), torch.empty_like(weight_CIR)  # v, and its codes
    squared = torch.zeros_like(weight_CRI[..., 0])
    for start in range(0, weight_CIR.shape[1], BLOCK):
        block, behind = slice(start, start + BLOCK), slice(start + BLOCK, None)
        errors = weight_CIR[:, block].clone()
        for column in range(start, start + errors.shape[1]):
            value, scale, zero = (held[:, column] for held in (wanted_CIR, scale_CIR, zero_CIR))
            code = codes_at(places_of(value, scale, zero), bits)
            rounded = scale * (code - zero)
            error = errors[:, column - start].sub_(rounded)
            rest = slice(column + 1, start + BLOCK)
            wanted_CIR[:, rest].baddbmm_(ahead_CII[:, column, rest, None], error[:, None])
            codes_CIR[:, column] = code
            squared += weight_of_CI[:, column, None] * (value - rounded) ** 2
        wanted_CIR[:, behind].baddbmm_(ahead_CII[:, block, behind].mT, errors)
    return torch.empty_like(codes_CIR).scatter_(1, order_CIR, codes_CIR).mT, squared


def _factored(gram_CII: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order of the columns (C, I), and in that order R_ji / R_ii (C, I, I) and R_ii^2 (C, I)."""
    order = gram_CII.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows = gram_CII.gather(1, order[..., None].expand_as(gram_CII))
    ordered = (
        rows.gather(2, order[:, None].expand_as(gram_CII)).cpu().double()
    )  # not every device has doubles
    added = DAMPING * ordered.diagonal(dim1=1, dim2=2).mean(dim=1)
    added = torch.where(added == 0, 1, added)  # of inputs that are all 0 any weight is right
    damped = ordered + added[:, None, None] * torch.eye(ordered.shape[1], dtype=ordered.dtype)
    upper = torch.linalg.cholesky(damped.flip(1, 2)).flip(1, 2)
    ends = upper.diagonal(dim1=1, dim2=2)
    return order, (upper / ends[:, None]).to(gram_CII), (ends**2).to(gram_CII)
