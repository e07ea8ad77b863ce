"""Split CIFAR-10 into tasks of new classes: 60,000 images of 32 x 32 pixels, 5,000 + 1,000 of each class.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. No licence is stated; it is used
for research.
"""

from __future__ import annotations

from dataclasses import dataclass

from clbench.data.torchvision_sets import find_held, train_and_test
from clbench.streams import Places, Source, Stream, register


@register("split-cifar10", data="cifar10.npz cifar10 cifar-10-batches-py", downloads=True)
@dataclass
class SplitCIFAR10(Stream):
    """Looked for as ``cifar10.npz``, ``cifar10/train/<class>/``, torchvision's layout; else downloaded."""

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return CIFAR-10."""
        from torchvision.datasets import CIFAR10

        return find_held("cifar10", places, "cifar-10-batches-py", train_and_test(CIFAR10))
