"""Hold a backbone's weights that were stored with what was learnt on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

BUNDLED = "backbone/"  # what the names of a backbone's tensors begin with in a file that holds others, too


@dataclass(frozen=True)
class Given:
    """Weights that are known, wherever the options of a backbone say that they lie."""

    tensors: Mapping[str, Tensor]  # under the names that timm gives them, in the dtype of the options
    digest: str  # what they were hashed to when they were read first
    source: str  # where they are from, for messages
