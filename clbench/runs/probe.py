"""Ask what a learner makes of the same images after each task: its representation, on a fixed probe set.

The representation of an image is what the backbone returns for it while the strategy predicts it; where a
strategy calls the backbone several times (an ensemble, a query before the prompted pass), the results stand
side by side. The cache of features is passed by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.batches import in_order
from clbench.runs.evaluator import Evaluator
from clbench.runs.modes import evaluation_mode
from clbench.seeds import Seeds


@dataclass(frozen=True)
class ProbeSet:
    """The images: as many of each task's test part as of its training part, of every task of the stream."""

    rows: NDArray[np.int64]  # (n,) of the stream's image array
    labels: NDArray[np.int64]  # (n,)
    tasks: NDArray[np.int64]  # (n,)
    is_test: NDArray[np.bool_]  # (n,): the others are training images, which a linear probe is fitted to

    @classmethod
    def draw(cls, evaluator: Evaluator, seeds: Seeds, num_images: int) -> ProbeSet:
        """Draw at most so many images of each part of each task, without replacement."""
        columns = []
        for task in evaluator.stream.tasks:
            for place, part in enumerate((task.train, task.test)):
                chosen = part.draw(num_images, seeds.numpy("probe", task.index, place))
                same = np.ones(len(chosen), np.int64)
                columns.append([chosen.rows, chosen.labels, task.index * same, place * same])
        rows, labels, tasks, places = (
            np.concatenate(each).astype(np.int64) for each in zip(*columns, strict=True)
        )
        return cls(rows, labels, tasks, places == 1)


class Probe:
    """Computes the representations of a probe set."""

    def __init__(self, backbone: Backbone, evaluator: Evaluator, images: ProbeSet) -> None:
        """Remember whom to ask, and about which images."""
        self.backbone = backbone
        self.evaluator = evaluator
        self.images = images

    @torch.inference_mode()
    def features(self) -> dict[str, Tensor]:
        """Return the features (n, D), and what the images are, for the record."""
        evaluation_mode(self.evaluator.strategy)
        rows, tasks = self.images.rows, self.images.tasks
        with self.evaluator.meter.phase("probe", images=len(rows)):
            features = torch.cat(
                [
                    self._represent(rows[tasks == task][part], task)
                    for task in np.unique(tasks).tolist()
                    for part in in_order(int((tasks == task).sum()), self.evaluator.batch_size)
                ]
            )
        kept = {"labels": self.images.labels, "tasks": tasks, "is_test": self.images.is_test}
        return {"features": features, **{name: torch.from_numpy(value) for name, value in kept.items()}}

    def _represent(self, rows: NDArray[np.int64], task: int) -> Tensor:
        inputs = replace(self.evaluator.inputs(rows, task), cache=None)
        seen: list[Tensor] = []

        def note(_: nn.Module, given: tuple[object, ...], features: Tensor) -> None:
            if given[0] is inputs.images:  # not the images of a memory, whose means may be taken anew
                seen.append(features.float().cpu())

        handle = self.backbone.register_forward_hook(note)
        try:
            self.evaluator.predict(inputs)
        finally:
            handle.remove()
        return torch.cat(seen, dim=1)
