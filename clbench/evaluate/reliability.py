"""Count, for each class, how often an image that is given to it with some confidence is of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.evaluate.metrics.calibration import NUM_BINS


class Reliability:
    """Counts (C, bins) over images: how many, how many of the class itself, and the sum of their shares."""

    def __init__(self, num_classes: int) -> None:
        """Start without images."""
        self.shape = (num_classes, NUM_BINS)
        self.sums: Tensor | None = None  # (3, C * bins), in double precision

    def add(self, shares: Tensor, labels: Tensor) -> None:
        """Add images: what share of the scores each class has, (B, C), and the true classes (B,)."""
        number = torch.arange(shares.shape[1], device=shares.device)
        bins = (shares * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)
        cell = (number * NUM_BINS + bins).flatten()
        is_true = (number == labels[:, None]).flatten()
        weights = (torch.ones_like(is_true), is_true, shares.flatten())
        size = self.shape[0] * NUM_BINS
        sums = torch.stack([torch.bincount(cell, each.double(), size) for each in weights])
        self.sums = sums if self.sums is None else self.sums + sums

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return a row for each class and bin that has images."""
        num_cells = self.shape[0] * NUM_BINS
        sums = np.zeros((3, num_cells)) if self.sums is None else self.sums.cpu().numpy()
        num, hits, confidence = sums
        cell = np.flatnonzero(num)
        return {
            "class": (cell // NUM_BINS).astype(np.int32),
            "bin": (cell % NUM_BINS).astype(np.int16),
            "num": num[cell].astype(np.int64),
            "hits": hits[cell].astype(np.int64),
            "confidence": confidence[cell],
        }
