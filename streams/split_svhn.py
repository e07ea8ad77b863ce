"""Split SVHN into tasks of new digits: 99,289 house numbers of 32 x 32 pixels, 73,257 to train on.

Y. Netzer et al., "Reading digits in natural images with unsupervised feature learning", NIPS workshop 2011.
For non-commercial use only. The 531,131 extra training images are not used. Natural order: 0 to 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clbench.data.torchvision_sets import Opened, find_held
from clbench.streams import Places, Source, Stream, register


@register("split-svhn", data="svhn.npz svhn train_32x32.mat", downloads=True)
@dataclass
class SplitSVHN(Stream):
    """Looked for as ``svhn.npz``, ``svhn/train/<class>/``, torchvision's layout; else downloaded."""

    default_augment: ClassVar[str] = "crop"  # a digit is never to be mirrored

    tasks: str = "5"

    def load(self, places: Places) -> Source:
        """Return SVHN."""
        return find_held("svhn", places, "train_32x32.mat", _open, files="*_32x32.mat")


def _open(root: str, download: bool = False) -> Opened:
    from torchvision.datasets import SVHN

    train, test = (SVHN(root, split=part, download=download) for part in ("train", "test"))
    return train, test, [str(digit) for digit in range(10)]
