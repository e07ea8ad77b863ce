"""Quantise a weight with a codebook for normal values, scaled and shifted by the weight's own statistics.

S. Jie, H. Wang, Z.-H. Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of
Precision Redundancy", ICCV 2023, arXiv 2307.16867. With mu and sigma of all n values of W (sigma with n - 1):

    Z = (W - mu) / (sigma + 1e-5),    W_hat = sigma Q(Z) + mu,

where Q takes each value to the code of its cell. Every code is the median of its cell under N(0, 1), which
makes the mean absolute error least. To the gradient Q is the identity, while mu and sigma stay what they are,
functions of W.

The cells end half-way between the codes as they were before their last update, as in the published code: of
1, 2 and 4 bits the codes have settled by then, of 8 bits a border is up to 1e-3 off the middle. A value
exactly on a border belongs to the upper cell.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

# As published. 256 codes have not settled by then: 98 of them still lie within 1e-6 of 0.
ITERATIONS = 500
EPSILON = 1e-5  # added to sigma where it divides


def codebook(bits: int) -> tuple[float, ...]:
    """Return the 2^bits codes in ascending order."""
    return _iterated(bits)[0]


def borders(bits: int) -> tuple[float, ...]:
    """Return the 2^bits - 1 borders between the codes' cells in ascending order."""
    return _iterated(bits)[1]


@lru_cache
def _iterated(bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the codes, and the borders that their last update started from."""
    normal = NormalDist()
    codes, middles = [0.0] * 2**bits, [0.0] * (2**bits - 1)
    for _ in range(ITERATIONS):
        middles = [(low + high) / 2 for low, high in pairwise(codes)]
        shares = [0.0, *map(normal.cdf, middles), 1.0]
        codes = [normal.inv_cdf((low + high) / 2) for low, high in pairwise(shares)]
    return tuple(codes), tuple(middles)


def quantise(weight: Tensor, codes: Tensor, borders: Tensor) -> Tensor:
    """Return the quantised weight, differentiable as if only mu and sigma had been taken out and put back."""
    mu, sigma = weight.mean(), weight.std()
    z = (weight - mu) / (sigma + EPSILON)
    nearest = codes[_cells(z, borders)] + (z - z.detach())  # adds exactly 0, with the gradient of z
    return sigma * nearest + mu


@torch.no_grad()
def encode(weight: Tensor, borders: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of each value's code, uint8 (n,), and the statistics: mu and sigma (2,)."""
    mu, sigma = weight.mean(), weight.std()
    z = (weight - mu) / (sigma + EPSILON)
    return _cells(z, borders).flatten().to(torch.uint8), torch.stack((mu, sigma))


@torch.no_grad()
def decode(indices: Tensor, statistics: Tensor, codes: Tensor) -> Tensor:
    """Return the values (n,) that indices stand for: bit for bit those that ``quantise`` computes with."""
    mu, sigma = statistics
    values: Tensor = sigma * codes[indices.long()] + mu
    return values


def _cells(z: Tensor, borders: Tensor) -> Tensor:
    """Return the index of the cell that each value lies in."""
    return torch.bucketize(z, borders, right=True)
