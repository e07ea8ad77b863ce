"""Measure images a second of our data path against PIL transforms behind torch's DataLoader.

Both make the same batches: a random order, RandomResizedCrop, flip, normalised float. Ours indexes a
memory-mapped array of decoded images. Theirs decodes nothing either: it makes PIL pictures of the same array,
as torchvision's CIFAR does, so that the ratio is the price of one-at-a-time transforms and of the loader, not
of JPEG. The paths take turns in one process; medians and ratios are printed.

    OMP_WAIT_POLICY=passive python benchmarks/data_path.py --rounds 5

Without that setting, threads that wait keep a processor busy: on a machine that others use too, both paths
with more than one thread measure little but that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from clbench.backbones.backbone import Preprocessing
from clbench.data.batches import Batcher, shuffled

SIZES = {32: (32, 4096, 128), 224: (256, 512, 24)}  # image size: stored pixels, images, batch size
MEAN = STD = (0.5, 0.5, 0.5)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images of an array, one at a time through PIL."""

    def __init__(self, images: NDArray[np.uint8], size: int) -> None:
        """Transform to ``size`` pixels."""
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a transformed image and a label."""
        return self.transform(Image.fromarray(self.images[index])), 0


def main() -> None:
    """Measure at each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="alternating measurements of each path")
    rounds = parser.parse_args().rounds
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds, medians")
    print(f"{'pixels':>6}  {'path':<22}{'images/s':>10}  {'ours/this':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for size, (stored, count, batch_size) in SIZES.items():
            images = memory_mapped(Path(folder) / f"{size}.npy", stored, count)
            rates = measure(paths(images, size, batch_size), rounds)
            for name, rate in rates.items():
                print(f"{size:>6}  {name:<22}{rate:>10.0f}  {rates['clbench'] / rate:>9.2f}")


def memory_mapped(file: Path, stored: int, count: int) -> NDArray[np.uint8]:
    """Write smooth random pictures to a file and return them mapped, as the cache does."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(stored, stored), mode="bilinear")
    np.save(file, (fine * 255).byte().permute(0, 2, 3, 1).contiguous().numpy())
    mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r").view(np.ndarray)
    return mapped


def paths(images: NDArray[np.uint8], size: int, batch_size: int) -> dict[str, Callable[[], int]]:
    """Return what makes one epoch of batches, by name; each returns the number of images made."""
    preprocessing = Preprocessing(image_size=size, mean=MEAN, std=STD, interpolation="bicubic", crop=1.0)
    batcher = Batcher(images, preprocessing, "rrc-flip", torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    pictures = Pictures(images, size)

    def ours() -> int:
        order = shuffled(len(images), batch_size, drop_last=False, generator=generator)
        return sum(len(batcher.training_batch(rows, generator)) for rows in order)

    def theirs(num_workers: int) -> int:
        loader = DataLoader(pictures, batch_size, shuffle=True, num_workers=num_workers)
        return sum(len(batch) for batch, _ in loader)

    return {
        "clbench": ours,
        "PIL, loader, 0 workers": lambda: theirs(0),
        "PIL, loader, 2 workers": lambda: theirs(2),
    }


def measure(paths: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Return the median images a second of each path, taking turns; the first round is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds + 1):
        for name, run in paths.items():
            start = time.perf_counter()
            count = run()
            rates[name].append(count / (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in rates.items()}


if __name__ == "__main__":
    main()
