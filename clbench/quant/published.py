"""Write and read modules as the bytes that S. Jie et al. publish (ICCV 2023, arXiv 2307.16867).

Layer by layer, without names or shapes: of a low-bit layer its packed indices, then mean and deviation; of
any other its weight, then its bias. Numbers are little-endian float32. The adapter comes before the head.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from clbench.quant.packed import packed_state, unpack


def to_bytes(*modules: nn.Module) -> bytes:
    """Return the packed tensors of all modules, one after another."""
    return b"".join(
        tensor.detach().cpu().numpy().astype(_little_endian(tensor)).tobytes()
        for module in modules
        for tensor in packed_state(module).values()
    )


def from_bytes(content: bytes, *modules: nn.Module) -> None:
    """Load into modules of the same shapes what ``to_bytes`` returned; ValueError for another length."""
    states = [packed_state(module) for module in modules]
    expected = sum(tensor.numel() * tensor.element_size() for state in states for tensor in state.values())
    if len(content) != expected:
        raise ValueError(f"these modules take {expected} bytes, not {len(content)}")
    start = 0
    for module, state in zip(modules, states, strict=True):
        for key, like in state.items():
            values = np.frombuffer(content, _little_endian(like), like.numel(), start)
            native = values.astype(values.dtype.newbyteorder("="))
            state[key] = torch.from_numpy(native).view_as(like)
            start += values.nbytes
        unpack(module, state)


def _little_endian(tensor: Tensor) -> np.dtype[np.uint8] | np.dtype[np.float32]:
    return np.dtype("u1") if tensor.dtype == torch.uint8 else np.dtype("<f4")
