"""Ask a learner about many files, a batch at a time: one that cannot be read costs nobody else an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clbench.data.decode import ImageError, decode_each
from clbench.deploy.learner import Learner
from clbench.deploy.predictions import Predictions


@dataclass(frozen=True)
class Answers:
    """What is said of some of the files."""

    indices: list[int]  # places of the files among all that were asked about
    predictions: Predictions  # one of each
    unreadable: dict[int, ImageError]  # of other files, by their places


def answers(
    learner: Learner, files: Sequence[Path], *, task: int | None = None, batch_size: int | None = None
) -> Iterator[Answers]:
    """Yield what the learner says of the files, in order, some at a time.

    ``task`` and ``batch_size`` are those of ``Learner.predict``.
    """
    size = learner.history.height, learner.history.width
    at_a_time = batch_size or learner.spec.run.eval_batch_size
    indices: list[int] = []
    images: list[NDArray[np.uint8]] = []
    unreadable: dict[int, ImageError] = {}
    for index, image in enumerate(decode_each(files, size)):
        if isinstance(image, ImageError):
            unreadable[index] = image
        else:
            indices.append(index)
            images.append(image)
        is_last = index == len(files) - 1
        if len(images) == at_a_time or is_last:
            pixels = np.stack(images) if images else np.zeros((0, *size, 3), np.uint8)
            yield Answers(indices, learner.predict(pixels, task=task, batch_size=at_a_time), unreadable)
            indices, images, unreadable = [], [], {}
