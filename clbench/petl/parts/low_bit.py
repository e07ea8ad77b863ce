"""Draw the pair of low-bit layers that ``bi-adapter`` and ``bi-lora`` are made of."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import nn

from clbench.petl.parts.initialise import kaiming_uniform
from clbench.quant.learnt_low_bit import FULL, LearntLowBitLinear, bias_free

Bits: TypeAlias = Literal[1, 2, 4, 8, 32]
LowBitPair: TypeAlias = tuple[LearntLowBitLinear | nn.Linear, LearntLowBitLinear | nn.Linear]


def low_bit_pair(width: int, rank: int, bits: Bits, generator: torch.Generator) -> LowBitPair:
    """Return Down (rank, width), drawn as torch does, and Up (width, rank), drawn small.

    Up comes from N(0, 0.001^2) within two deviations: quantised, no value of it can be 0, so the pair is not
    quite without effect at the start. At 32 bits Up starts at 0.
    """
    down, up = bias_free(width, rank, bits), bias_free(rank, width, bits)
    kaiming_uniform(down.weight, generator)
    if bits == FULL:
        nn.init.zeros_(up.weight)
    else:
        nn.init.trunc_normal_(up.weight, std=0.001, a=-0.002, b=0.002, generator=generator)
    return down, up
