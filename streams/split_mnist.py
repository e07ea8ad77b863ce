"""Split MNIST into tasks of new digits: 70,000 grey images of 28 x 28 pixels, about 6,000 + 1,000 of each.

Y. LeCun et al., "Gradient-based learning applied to document recognition", Proceedings of the IEEE, 1998.
CC BY-SA 3.0. Natural order: 0 to 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clbench.data.torchvision_sets import find_held, train_and_test
from clbench.streams import Places, Source, Stream, register


@register("split-mnist", data="mnist.npz mnist MNIST", downloads=True)
@dataclass
class SplitMNIST(Stream):
    """Looked for as ``mnist.npz``, ``mnist/train/<class>/``, torchvision's layout; else downloaded."""

    default_augment: ClassVar[str] = "crop"  # a digit is never to be mirrored

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return MNIST."""
        from torchvision.datasets import MNIST

        return find_held("mnist", places, "MNIST/raw", train_and_test(MNIST))
