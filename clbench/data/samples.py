"""Hold images as uint8 rows of one (memory-mapped) array, and name a part of it by row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """Some rows of an image array, with their labels."""

    images: NDArray[np.uint8]  # (all rows, H, W, 3), shared between the parts of a stream, never copied
    rows: NDArray[np.int64]  # (N,) which rows these samples are
    labels: NDArray[np.int64]  # (N,) class numbers in stream order, 0 being the first class seen

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image, as a batch has them."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    def select(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Samples:
        """Return the samples at these places."""
        return Samples(self.images, self.rows[index], self.labels[index])

    def draw(self, count: int, generator: np.random.Generator) -> Samples:
        """Return at most so many of the samples, drawn without replacement, in their old order."""
        return self.select(np.sort(generator.permutation(len(self))[:count]))


def join(parts: Sequence[Samples]) -> Samples:
    """Return the union of samples of one image array, in the order given."""
    if len({id(part.images) for part in parts}) != 1:
        raise ValueError("only samples of one image array can be joined")
    rows = np.concatenate([part.rows for part in parts])
    return Samples(parts[0].images, rows, np.concatenate([part.labels for part in parts]))
