"""Split Fashion-MNIST into tasks of new classes: 70,000 grey images of 28 x 28 pixels, 6,000 + 1,000 of each.

H. Xiao et al., "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017,
arXiv:1708.07747. MIT licence. Natural order: as numbered there, from T-shirt to ankle boot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clbench.data.torchvision_sets import find_held, train_and_test
from clbench.streams import Places, Source, Stream, register


@register("split-fashion-mnist", data="fashion-mnist.npz fashion-mnist FashionMNIST", downloads=True)
@dataclass
class SplitFashionMNIST(Stream):
    """Looked for as ``fashion-mnist.npz``, ``fashion-mnist/``, torchvision's layout; else downloaded."""

    default_augment: ClassVar[str] = "crop-flip"

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return Fashion-MNIST."""
        from torchvision.datasets import FashionMNIST

        return find_held("fashion-mnist", places, "FashionMNIST/raw", train_and_test(FashionMNIST))
