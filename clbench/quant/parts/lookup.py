"""Multiply by a low-bit weight by table look-up: the definition that every kernel is tested against.

J. Wei et al., "T-MAC: CPU Renaissance via Table Lookup for Low-Bit LLM Deployment on Edge", EuroSys 2025,
arXiv 2407.00088. A weight w = s (q - z) has codes q of b bits. The bits that a plane p has for a quad, four
neighbouring inputs, are a pattern; and of each quad all 16 signed sums are tabulated once:

    pattern   pi_p = sum_j bit_p(q_j) 2^j                                     j = 0..3
    table     T[pi] = sum_j (+ where bit j of pi is 1, else -) x_j            T[15 - pi] = -T[pi]
    in bytes  t = max over quads of sum_j |x_j| / 127,  T8 = round(T / t)     to even; 0 where t is 0
    integers  a = sum_p 2^p sum over quads of T8[pi_p]
    product   y = sum over groups of s (t a / 2 + ((2^b - 1) / 2 - z) sum x)

since q = sum_p 2^p (2 bit_p - 1) / 2 + (2^b - 1) / 2. t is one for each row of inputs and each run of at most
``RUN`` inputs of a group. What is padded has x = 0, so its code does not matter: a group to whole runs, a run
to whole quads.

Shape letters: N rows of inputs, M outputs, K inputs, G groups, R runs a group, Q quads a run, P planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.quant.parts.low_bit_weight import LowBitWeight

QUAD = 4  # inputs of a table
RUN = 64  # inputs that share t
LAST = 127  # of the bytes


@dataclass(frozen=True)
class Tables:
    """The signed sums of inputs, in bytes."""

    entries_NGRQT: Tensor  # int8, 16 a quad
    scale_NGR: Tensor  # t
    total_NG: Tensor  # sum x, in float32


def multiplied_by_lookup(inputs_NK: Tensor, stored: LowBitWeight) -> Tensor:
    """Return inputs (N, K), float32, times a weight's transpose: (N, M)."""
    patterns = patterns_of(stored)
    tables = tables_of(inputs_NK, len(stored.scale[0]))
    return product(whole_part(tables, patterns), tables, stored)


def patterns_of(stored: LowBitWeight) -> Tensor:
    """Return the patterns of a weight's planes, (P, M, G, R, Q) int64; ValueError for uneven levels."""
    if stored.levels is not None:
        raise ValueError("tables multiply evenly spaced codes; these have levels")
    codes = _quads(stored.codes().long(), len(stored.scale[0]))
    places = torch.arange(QUAD, device=codes.device)
    planes = [(((codes >> plane) & 1) << places).sum(dim=-1) for plane in range(stored.bits)]
    return torch.stack(planes)


def tables_of(inputs_NK: Tensor, groups: int) -> Tables:
    """Return the tables of inputs, for a weight with so many groups a row."""
    quads = _quads(inputs_NK, groups)
    scale = quads.abs().sum(dim=-1).amax(dim=-1) / LAST
    divisor = torch.where(scale == 0, 1, scale)[..., None, None]
    entries = torch.round(signed_sums(quads) / divisor).to(torch.int8)
    return Tables(entries, scale, quads.sum(dim=(2, 3, 4)))


def signed_sums(quads: Tensor) -> Tensor:
    """Return T of quads (..., 4): (..., 16)."""
    patterns = torch.arange(2**QUAD, device=quads.device)
    bits = (patterns[:, None] >> torch.arange(QUAD, device=quads.device)) & 1
    return quads @ (2 * bits - 1).T.to(quads.dtype)


def whole_part(tables: Tables, patterns_PMGRQ: Tensor) -> Tensor:
    """Return a, exactly: int32 (N, M, G, R)."""
    entries_NQT = tables.entries_NGRQT.flatten(1, 3)
    quads = torch.arange(entries_NQT.shape[1], device=entries_NQT.device)
    total: Tensor | None = None
    for plane, patterns in enumerate(patterns_PMGRQ):
        found = entries_NQT[:, quads, patterns.flatten(1)].view(-1, *patterns.shape)  # (N, M, G, R, Q)
        own = found.sum(dim=-1, dtype=torch.int32) << plane
        total = own if total is None else total + own
    assert total is not None
    return total


def product(whole_NMGR: Tensor, tables: Tables, stored: LowBitWeight) -> Tensor:
    """Return y (N, M) of its integer part."""
    scale_MG, zero_MG = stored.scale.float(), stored.zero.float()
    looked_up = (whole_NMGR * tables.scale_NGR[:, None]).sum(dim=3) / 2
    middle = (2**stored.bits - 1) / 2
    y: Tensor = (scale_MG * (looked_up + (middle - zero_MG) * tables.total_NG[:, None])).sum(dim=2)
    return y


def _quads(rows: Tensor, groups: int) -> Tensor:
    """Return rows (A, K) as quads (A, G, R, Q, 4), filled up with 0."""
    width = -(-rows.shape[1] // groups)
    run = min(RUN, _whole(width, QUAD))
    in_groups = F.pad(rows, (0, groups * width - rows.shape[1])).view(len(rows), groups, width)
    in_runs = F.pad(in_groups, (0, _whole(width, run) - width))
    return in_runs.view(len(rows), groups, -1, run // QUAD, QUAD)


def _whole(count: int, unit: int) -> int:
    """Return the least multiple of a unit that is not below a count."""
    return -(-count // unit) * unit
