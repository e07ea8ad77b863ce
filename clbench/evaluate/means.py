"""Average numbers of which there may be none: a mean of nothing is not known, and so NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean(values: ArrayLike, which: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of the values, or of those that are chosen; NaN if there is none or one is NaN."""
    numbers = np.asarray(values, dtype=np.float64)
    chosen = numbers if which is None else numbers[which]
    return float(chosen.mean()) if chosen.size else float("nan")
