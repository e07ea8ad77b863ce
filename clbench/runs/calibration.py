"""Draw the images that a quantiser is calibrated on: training images that a learner may still look at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clbench import quant
from clbench.data.batches import Batcher
from clbench.data.samples import Samples
from clbench.data.tasks import Task, TaskStream
from clbench.errors import UserError
from clbench.learning.memory import Memory
from clbench.options import build
from clbench.quant import Quantiser
from clbench.records.spec import Part, RunSpec
from clbench.runs.earlier import remembered_by
from clbench.seeds import Seeds
from clbench.strategies import Strategy


def quantiser_of(part: Part) -> Quantiser:
    """Return the quantiser that a spec names."""
    return build(quant.get(part.name), "quant", part.options)


class CalibrationError(UserError, ValueError):
    """Images that are too few to calibrate on."""


@dataclass(frozen=True)
class Drawn:
    """Images to calibrate on."""

    images: Tensor  # (n, 3, S, S), normalised, in the test transform
    task: int  # of which they are, or after which a memory held them

    @property
    def digest(self) -> str:
        """A text that only the same images share."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()


def drawn_of(number: int, samples: Samples, batcher: Batcher, generator: torch.Generator) -> Tensor:
    """Return so many of the samples' images; CalibrationError in one line where there are fewer."""
    if number > len(samples):
        raise CalibrationError(too_few(number, len(samples)))
    chosen = torch.randperm(len(samples), generator=generator)[:number]
    return batcher.test_batch(samples.rows[np.sort(chosen.numpy())])


def too_few(number: int, available: int) -> str:
    """Return the line that says so."""
    return (
        f"{number} calibration images are asked for, and a task has {available} training images; ask for"
        f" fewer with the quantiser's option images={available}"
    )


def refuse_uncalibrated(spec: RunSpec, strategy: Strategy, stream: TaskStream) -> None:
    """Raise CalibrationError in one line, before anything is learnt, where a variant will lack images."""
    for variant in spec.variants:
        number = quantiser_of(variant.quant).num_images if variant.quant else 0
        if number and spec.run.calibration == "memory":
            held = (part for each in strategy.parts().values() for part in each.modules())
            if not any(isinstance(part, Memory) for part in held):
                raise CalibrationError(
                    f"variant {variant.name}: run.calibration=memory, and strategy {spec.strategy.name} keeps"
                    " no images; use current or first"
                )
        elif number:
            tasks = stream.tasks[:1] if spec.run.calibration == "first" else stream.tasks
            fewest = min(len(task.train) for task in tasks)
            if fewest < number:
                raise CalibrationError(f"variant {variant.name}: {too_few(number, fewest)}")


def calibration_images(
    number: int,
    *,
    whose: Literal["current", "first", "memory"],
    seen: Sequence[Task],
    strategy: Strategy,
    batcher: Batcher,
    seeds: Seeds,
) -> Drawn:
    """Return training images of the newest task or the first, or as many as the strategy's memory holds."""
    task = seen[0] if whose == "first" else seen[-1]
    generator = seeds.generator("calibration", task.index)
    if whose != "memory":
        return Drawn(drawn_of(number, task.train, batcher, generator), task.index)
    stored = torch.cat([each.items for each in remembered_by(strategy)])
    chosen = torch.randperm(len(stored), generator=generator)[:number]
    return Drawn(batcher.plain(stored[chosen.to(stored.device)].to(batcher.device)), task.index)
