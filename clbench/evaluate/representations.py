"""Hold what a learner made of a fixed probe set after each task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Representations:
    """Features of the same n images after each task; their width may change from task to task."""

    after: list[Features]  # (n, D_k) after task k, one for each task evaluated
    labels: NDArray[np.int64]  # (n,)
    tasks: NDArray[np.int64]  # (n,)
    is_test: NDArray[np.bool_]  # (n,): the others are training images, for a linear probe

    @property
    def tested(self) -> list[Features]:
        """The features of the test images after each task."""
        return [features[self.is_test] for features in self.after]
