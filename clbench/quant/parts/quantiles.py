"""Find quantiles among values in order."""

from __future__ import annotations

import torch
from torch import Tensor


def quantile(ordered: Tensor, share: float) -> Tensor:
    """Return the quantile (..., 1) of each row of ascending values (..., n), between neighbours as they lie.

    Unlike torch's, for any number of values.
    """
    place = share * (ordered.shape[-1] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[-1] - 1)
    return torch.lerp(ordered[..., below : below + 1], ordered[..., above : above + 1], place - below)
