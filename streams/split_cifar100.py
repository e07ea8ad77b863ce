"""Split CIFAR-100 into tasks of new classes: 60,000 images of 32 x 32 pixels, 500 + 100 of each class.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. No licence is stated; it is used
for research. Natural order: the fine labels by their names' alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass

from clbench.data.torchvision_sets import find_held, train_and_test
from clbench.streams import Places, Source, Stream, register


@register("split-cifar100", data="cifar100.npz cifar100 cifar-100-python", downloads=True)
@dataclass
class SplitCIFAR100(Stream):
    """Looked for as ``cifar100.npz``, ``cifar100/train/<class>/``, torchvision's layout; else downloaded."""

    tasks: str = "10"

    def load(self, places: Places) -> Source:
        """Return CIFAR-100."""
        from torchvision.datasets import CIFAR100

        return find_held("cifar100", places, "cifar-100-python", train_and_test(CIFAR100))
