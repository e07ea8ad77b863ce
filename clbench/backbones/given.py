"""Hold a backbone's weights that were stored with what was learnt on them, and hash tensors by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BUNDLED = "backbone/"  # what the names of a backbone's tensors begin with in a file that holds others, too


@dataclass(frozen=True)
class Given:
    """Weights that are known, wherever the options of a backbone say that they lie."""

    tensors: Mapping[str, Tensor]  # under the names that timm gives them, in the dtype of the options
    digest: str  # what they were hashed to when they were read first
    source: str  # where they are from, for messages
    absent: frozenset[str] = frozenset()  # names of those that low-bit layers will take the place of


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
