"""Make a stream of five data sets, each a task: CIFAR-10, MNIST, Fashion-MNIST, SVHN and notMNIST.

S. Ebrahimi et al., "Adversarial continual learning", ECCV 2020, arXiv:2003.09553. All images are kept at
32 x 32 pixels. Each data set has its own terms. The order is that of L2P (arXiv:2112.08654).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clbench.data.joining import join_sources
from clbench.data.listings import chosen
from clbench.streams import Places, Source, Stream, get, register

DATASETS = ("cifar10", "mnist", "fashion-mnist", "svhn", "notmnist")
SIZE = 32  # pixels


@register(
    "5-datasets",
    data="cifar-10-batches-py MNIST FashionMNIST train_32x32.mat notMNIST_small",
    downloads=True,
)
@dataclass
class FiveDatasets(Stream):
    """Each looked for and downloaded as its own stream does it: ``clbench show split-notmnist`` and so on."""

    default_augment: ClassVar[str] = "crop"  # digits and letters are never to be mirrored

    tasks: str = "stream"
    datasets: str = ",".join(DATASETS)  # which, in the order in which they are met

    def load(self, places: Places) -> Source:
        """Return the five data sets as one collection."""
        names = chosen("datasets", self.datasets, DATASETS)
        sources = {name: get(f"split-{name}")().load(places) for name in names}
        return join_sources("5-datasets", sources, size=(SIZE, SIZE), cache_dir=places.cache_dir)
