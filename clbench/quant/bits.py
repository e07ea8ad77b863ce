"""Pack indices of 1, 2, 4 or 8 bits into bytes, the first one in the least significant bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(indices: Tensor, bits: int) -> Tensor:
    """Return uint8 indices (n,), each below 2^bits, as ceil(n bits / 8) bytes; the last is filled with 0."""
    in_a_byte = 8 // bits
    padded = F.pad(indices, (0, -len(indices) % in_a_byte)).view(-1, in_a_byte)
    packed: Tensor = (padded << _shifts(bits, padded)).sum(dim=1)
    return packed.to(torch.uint8)


def unpack(packed: Tensor, bits: int, num_indices: int) -> Tensor:
    """Return the first ``num_indices`` of what ``pack`` packed; ValueError for another number of bytes."""
    num_bytes = -(-num_indices * bits // 8)
    if packed.shape != (num_bytes,):
        raise ValueError(f"{num_indices} indices of {bits} bits are {num_bytes} bytes, not {packed.numel()}")
    indices: Tensor = (packed[:, None] >> _shifts(bits, packed)) & (2**bits - 1)
    return indices.flatten()[:num_indices]


def _shifts(bits: int, like: Tensor) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=like.device)
