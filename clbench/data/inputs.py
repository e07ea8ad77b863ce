"""Show a strategy a batch of images: by identity, so that what was computed before need not be again.

A batch knows which rows of the stream's image array it holds and how they are to be seen. Pixels are read and
transformed when they are asked for; features come from the cache where nothing that made them has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.data.batches import Batcher, in_order
from clbench.data.samples import Samples
from clbench.data.stored import Stored
from clbench.outside.finite import refuse_not_finite
from clbench.seeds import Seeds

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone


class Features(Protocol):
    """What computes the features of images, or knows them already."""

    def features(self, inputs: Inputs, backbone: Backbone) -> Tensor:
        """Return the features (B, D) that ``backbone(inputs.images)`` would give."""


@dataclass(eq=False, kw_only=True)
class Inputs:
    """Images to predict, in the test transform."""

    batcher: Batcher
    rows: NDArray[np.int64]  # (B,) of the stream's image array
    task: int | None = None  # whose images they are, where that is told: in training, and task-incrementally
    cache: Features | None = None  # None: compute everything each time

    def __len__(self) -> int:
        """Return the number of images, B."""
        return len(self.rows)

    @property
    def view(self) -> str | None:
        """Name the transform if the images look the same each time; None where it is drawn anew."""
        return "test"

    @cached_property
    def stored(self) -> Tensor:
        """The images as they are stored: (B, 3, H, W) uint8."""
        return self.batcher.gather(self.rows)

    @cached_property
    def images(self) -> Tensor:
        """The images as the backbone wants them: (B, 3, S, S) float, normalised."""
        return self.batcher.plain(self.stored)

    def uncached(self) -> Inputs:
        """Return the same images, of which nothing is known beforehand."""
        return replace(self, cache=None)

    def features(self, backbone: Backbone) -> Tensor:
        """Return the features (B, D) of ``backbone(images)`` with the modules that are on now.

        Where the images look the same each time and no active module is being trained, they come from the
        cache; where only the last blocks are, those blocks alone are computed.
        """
        if self.cache is None or self.view is None:
            features: Tensor = backbone(self.images)
            return features
        return self.cache.features(self, backbone)


@dataclass(eq=False, kw_only=True)
class Batch(Inputs):
    """Labelled images to learn from, augmented unless they are asked for ``plain``."""

    labels: Tensor  # (B,) int64, class numbers in stream order
    task: int  # index of the task that is being learnt
    seeds: Seeds
    position: tuple[int, ...]  # (task, epoch, step), which everything random is drawn by
    purpose: str = "augment"  # whose generator the augmentation is drawn from; empty: the test transform
    num_new: int = -1  # the first so many are new, the others replayed; -1: all are new
    replayed: tuple[Stored, ...] = ()  # what a memory gave, in the order in which it stands behind the new
    given: Tensor | None = None  # (B, 3, H, W) uint8, where the images are not read off the stream's array
    is_last_update: bool = True  # whether the next step is on the next batch
    # how many images a memory gave each time it was asked in this step; all views of a batch note it here
    num_drawn: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Count the new images."""
        if self.num_new < 0:
            self.num_new = len(self.rows)

    @property
    def view(self) -> str | None:
        """Name the transform if the images look the same each time; None where it is drawn anew."""
        if not self.purpose:
            return "test"
        return "whole" if self.batcher.augment == "none" else None

    @cached_property
    def stored(self) -> Tensor:
        """The images as they are stored: (B, 3, H, W) uint8."""
        return self.batcher.gather(self.rows) if self.given is None else self.given

    @cached_property
    def images(self) -> Tensor:
        """The images as the backbone wants them: (B, 3, S, S) float, augmented and normalised."""
        if not self.purpose:
            return self.batcher.plain(self.stored)
        return self.batcher.augmented(self.stored, self.generator(self.purpose))

    @property
    def is_first_pass(self) -> bool:
        """Whether the task's images are met for the first time, and this is the last step on them."""
        return self.position[1] == 0 and self.is_last_update

    def generator(self, purpose: str) -> torch.Generator:
        """Return the generator of a purpose at this step."""
        return self.seeds.generator(purpose, *self.position)

    def plain(self) -> Batch:
        """Return the same images in the test transform."""
        return replace(self, purpose="")

    def augmented(self, purpose: str) -> Batch:
        """Return the same images, augmented by draws of their own."""
        return replace(self, purpose=purpose)

    def new(self) -> Stored:
        """Return the new images as a memory takes them."""
        end = self.num_new
        labels = self.labels[:end]
        tasks = torch.full_like(labels, self.task)
        rows = torch.from_numpy(self.rows[:end]).to(labels.device)
        return Stored(self.stored[:end], labels, tasks, rows, {})

    def followed_by(self, drawn: Stored) -> Batch:
        """Return the batch with what a memory gave behind its own images."""
        self.num_drawn.append(len(drawn.labels))
        return replace(
            self,
            rows=np.concatenate([self.rows, drawn.rows.cpu().numpy()]),
            labels=torch.cat([self.labels, drawn.labels]),
            replayed=(*self.replayed, drawn),
            given=torch.cat([self.stored, drawn.items]),
        )

    def recalled(self, drawn: Stored, purpose: str) -> Batch:
        """Return what a memory gave as a batch of its own, augmented by the draws of ``purpose``."""
        self.num_drawn.append(len(drawn.labels))
        rows = drawn.rows.cpu().numpy()
        return replace(self, rows=rows, labels=drawn.labels, given=drawn.items, purpose=purpose, num_new=0)


class Counting(Protocol):
    """What hears of pieces of work on images, to count their operations."""

    def start_over(self) -> None:
        """Hear that the next piece is not like those before."""

    def begin(self) -> None:
        """Hear that a piece begins."""

    def end(self, num_images: int) -> None:
        """Hear that a piece of work on so many images has ended."""


@dataclass(frozen=True)
class Feed:
    """The training images of a task, in order and in the test transform, as often as they are asked for."""

    samples: Samples
    batch_size: int
    make: Callable[[NDArray[np.int64]], Batch]  # of places in the samples
    sampling: Counting | None = None  # hears of what is done with each batch

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the images in large batches."""
        return self.in_batches(self.batch_size)

    def in_batches(self, size: int) -> Iterator[Batch]:
        """Yield the images, ``size`` at a time."""
        if self.sampling:
            self.sampling.start_over()
        for part in in_order(len(self.samples), size):
            batch = self.make(np.arange(part.start, part.stop)).plain()
            if self.sampling:
                self.sampling.begin()
            yield batch
            if self.sampling:
                self.sampling.end(len(batch))

    def at(self, places: NDArray[np.int64]) -> Batch:
        """Return the images at these places of the task, as one batch."""
        return self.make(places).plain()

    @torch.no_grad()
    def features(self, backbone: Backbone) -> Tensor:
        """Return the features (N, D) of all images, on the backbone's device, if all are finite."""
        features = torch.cat([batch.features(backbone) for batch in self])
        refuse_not_finite(features, "the features of a task's images", f"backbone {backbone.name}")
        return features

    @cached_property
    def labels(self) -> Tensor:
        """The labels (N,) of all images, int64, on the CPU."""
        return torch.from_numpy(self.samples.labels)


def sight(images: Tensor, labels: Sequence[int] | None = None, task: int = 0) -> Batch:
    """Return a batch of images that are normalised already, for tests and notebooks."""
    batch = Batch(
        batcher=None,  # type: ignore[arg-type]  # nothing is read or transformed
        rows=np.arange(len(images)),
        labels=torch.tensor([0] * len(images) if labels is None else labels),
        task=task,
        seeds=Seeds(0),
        position=(task, 0, 0),
        purpose="",
    )
    batch.images = images
    return batch
