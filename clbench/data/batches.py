"""Turn rows of uint8 images into normalised batches on the device.

One index operation, one batched transform. On an accelerator the whole image array is kept there when it
fits, so that a batch costs no copy from the host.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.backbones.backbone import Preprocessing
from clbench.data.samples import Samples
from clbench.data.transforms import AUGMENTS, Boxes, centre_box, resample
from clbench.seeds import Seeds

RESIDENT_SHARE = 0.5  # of the accelerator's free memory that an image array may take


class Batcher:
    """Makes batches of one image array for one backbone on one device."""

    def __init__(
        self, images: NDArray[np.uint8], preprocessing: Preprocessing, augment: str, device: torch.device
    ) -> None:
        """Take the array (N, H, W, 3); ``augment`` names the training transform."""
        self.images = images
        self.preprocessing = preprocessing
        self.augment = augment
        self.draw_boxes = AUGMENTS[augment]
        self.device = device
        self._scale, self._shift = scale_and_shift(preprocessing, device)
        self._resident = self._move(images) if _fits(images.nbytes, device) else None

    def training_batch(self, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return these rows, augmented and normalised: (B, 3, S, S) float."""
        return self.augmented(self.gather(rows), generator)

    def test_batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Return these rows as the backbone's test transform makes them: (B, 3, S, S) float."""
        return self.plain(self.gather(rows))

    def augmented(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        """Augment and normalise stored images (B, 3, H, W) uint8: (B, 3, S, S) float."""
        height, width = stored.shape[-2:]
        return self._transform(stored, self.draw_boxes(len(stored), height, width, generator))

    def plain(self, stored: Tensor) -> Tensor:
        """Return stored images (B, 3, H, W) uint8 in the test transform: (B, 3, S, S) float."""
        height, width = stored.shape[-2:]
        return self._transform(stored, centre_box(height, width, self.preprocessing.crop))

    def whole(self, stored: Tensor) -> Tensor:
        """Return stored images (B, 3, H, W) uint8 as the training transform "none" makes them."""
        height, width = stored.shape[-2:]
        return self._transform(stored, centre_box(height, width, crop=1.0))

    def labels(self, samples: Samples, index: NDArray[np.int64]) -> Tensor:
        """Return the labels at these places of the samples: (B,) int64."""
        return torch.from_numpy(samples.labels[index]).to(self.device, non_blocking=True)

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Return these rows as they are stored: (B, 3, H, W) uint8, on the device."""
        if self._resident is not None:
            return self._resident[torch.from_numpy(rows).to(self.device, non_blocking=True)]
        batch = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2)
        return batch.to(self.device, non_blocking=True)

    def _transform(self, images: Tensor, boxes: Boxes) -> Tensor:
        preprocessing = self.preprocessing
        boxes = boxes.to(self.device)
        resized = resample(images, boxes, preprocessing.image_size, preprocessing.interpolation)
        return resized.mul_(self._scale).sub_(self._shift)

    def _move(self, images: NDArray[np.uint8]) -> Tensor:
        """Copy the array to the device as (N, 3, H, W), a piece at a time."""
        count, height, width, channels = images.shape
        resident = torch.empty(count, channels, height, width, dtype=torch.uint8, device=self.device)
        for start in range(0, count, 4096):
            piece = torch.from_numpy(np.ascontiguousarray(images[start : start + 4096]))
            resident[start : start + 4096] = piece.to(self.device).permute(0, 3, 1, 2)
        return resident


def scale_and_shift(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what grey levels are multiplied by, and what is taken off then, each (1, 3, 1, 1)."""
    scale = 255 * torch.tensor(preprocessing.std, device=device).view(1, -1, 1, 1)
    return 1 / scale, torch.tensor(preprocessing.mean, device=device).view(1, -1, 1, 1) * 255 / scale


def shuffled(
    count: int, batch_size: int, drop_last: bool, generator: torch.Generator | None
) -> list[NDArray[np.int64]]:
    """Return the places 0..count-1 in random order (without a generator: in their own), in batches.

    The only batch is never dropped.
    """
    order = torch.randperm(count, generator=generator).numpy() if generator else np.arange(count)
    kept = count - count % batch_size if drop_last and count >= batch_size else count
    return [order[start : start + batch_size] for start in range(0, kept, batch_size)]


class EpochBatches:
    """The batches of each epoch, for whoever asks step by step: those of the last epoch are kept."""

    def __init__(self, count: int, batch_size: int, seeds: Seeds, *, drop_last: bool) -> None:
        """Shuffle ``count`` places, by ``seeds``' generator "order" of the epoch."""
        self.count, self.batch_size, self.seeds, self.drop_last = count, batch_size, seeds, drop_last
        self._last: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def of(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the places of each batch of an epoch, 0 being the first."""
        if self._last[0] != epoch:
            generator = self.seeds.generator("order", epoch)
            batches = shuffled(self.count, self.batch_size, drop_last=self.drop_last, generator=generator)
            self._last = epoch, batches
        return self._last[1]


def in_order(count: int, batch_size: int) -> Iterator[slice]:
    """Yield slices that cover 0..count-1; the last two share their images where one would be left over.

    A product with a single row is rounded in another way than one with several, on some processors: what
    comes of an image must not depend on how many others there are.
    """
    start = 0
    while start < count:
        end = min(start + batch_size, count)
        if end == count - 1 and batch_size > 2:
            end -= 1
        yield slice(start, end)
        start = end


def _fits(num_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= RESIDENT_SHARE * free
