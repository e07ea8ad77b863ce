"""Compute a loss in float32 at least, also where autocast would have its products in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def full_precision(tensor: Tensor) -> Tensor:
    """Return the tensor as float32, or unchanged if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def cosines(left_MD: Tensor, right_ND: Tensor) -> Tensor:
    """Return the cosines (M, N) between the rows of two matrices."""
    with torch.autocast(left_MD.device.type, enabled=False):
        left_MD = F.normalize(full_precision(left_MD), dim=1)
        right_ND = F.normalize(full_precision(right_ND), dim=1)
        return left_MD @ right_ND.to(left_MD.dtype).T
