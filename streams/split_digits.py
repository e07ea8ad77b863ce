"""Split scikit-learn's embedded digits into tasks of new classes: 1,797 images of 8 x 8 pixels, no download.

E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998, its test part;
CC BY 4.0. Every fifth image of a digit, in the collection's order, is a test image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clbench.data.cache import as_source
from clbench.streams import Places, Source, Stream, register

BRIGHTEST = 16  # the collection's grey levels are 0..16


@register("split-digits")
@dataclass
class SplitDigits(Stream):
    """Ten handwritten digits, grey as RGB; in training they are shifted but never mirrored."""

    default_augment: ClassVar[str] = "crop"
    recipe: ClassVar[dict[str, bool | int | float | str]] = {"epochs": 20}  # a task has few images

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return the digits, training images first."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = digits.target.astype(np.int64)
        is_test = np.zeros(len(labels), dtype=np.bool_)
        for digit in range(10):
            is_test[np.flatnonzero(labels == digit)[4::5]] = True
        training_first = np.argsort(is_test, kind="stable")
        grey = np.rint(digits.images[training_first] * (255 / BRIGHTEST)).astype(np.uint8)
        images = np.repeat(grey[..., None], 3, axis=-1)
        names = [str(digit) for digit in range(10)]
        return as_source(images, labels[training_first], int((~is_test).sum()), names)
