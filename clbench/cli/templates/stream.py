"""Cut pictures of stripes into tasks: a class is a direction of the stripes.

Say here where the images come from, who made them, and under which licence they may be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from clbench.data.samples import Samples
from clbench.streams import Places, Source, Stream, register

NUM_CLASSES = 10
PER_CLASS = 60  # images, of which every fifth is a test image


@register("example")
@dataclass
class Example(Stream):
    """Ten directions of grey stripes at random places, under noise; made, not read."""

    # Every field is an option: --set stream.size=48. How the images are cut into tasks (tasks, order,
    # scenario, online, ...) is the same for all streams, and comes with the base class.
    size: Annotated[int, Field(ge=8, le=256)] = 32  # pixels a side
    grain: Annotated[float, Field(ge=0)] = 40.0  # deviation of a pixel's value, which is in 0..255

    def load(self, places: Places) -> Source:
        """Return the whole collection: one array of images, and which rows of it are for training or test.

        A stream of real images looks for them in ``places.data_dir``, decodes them once with
        ``clbench.data.cache.cached``, and raises ``clbench.streams.DataNotFoundError``, with what it looked
        for, where there are none.
        """
        random = np.random.default_rng(0)  # of its own, so that every load gives the same
        labels = np.repeat(np.arange(NUM_CLASSES), PER_CLASS)
        angle = np.pi * labels / NUM_CLASSES
        phase = random.uniform(0, 2 * np.pi, len(labels))
        across, down = np.meshgrid(np.arange(self.size), np.arange(self.size))
        distance = np.multiply.outer(np.cos(angle), across) + np.multiply.outer(np.sin(angle), down)
        grey = 127 + 90 * np.sin(distance * 2 * np.pi / 8 + phase[:, None, None])
        noisy = grey[..., None] + self.grain * random.standard_normal((*grey.shape, 3))
        images = noisy.clip(0, 255).astype(np.uint8)  # (N, H, W, 3)
        rows = np.arange(len(labels))
        train, test = rows[rows % 5 > 0], rows[rows % 5 == 0]
        return Source(
            train=Samples(images, train, labels[train]),
            test=Samples(images, test, labels[test]),
            class_names=[f"{180 * number // NUM_CLASSES} degrees" for number in range(NUM_CLASSES)],
        )
