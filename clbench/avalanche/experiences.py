"""Show samples to Avalanche's strategies, as experiences of one of its streams.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from clbench.avalanche.quietly import import_avalanche
from clbench.data.samples import Samples
from clbench.data.tasks import TaskStream

if TYPE_CHECKING:
    from avalanche.benchmarks import CLExperience

SPLITS = ("train", "validation", "test")


class Pictures(Dataset[tuple[Tensor, int]]):
    """Samples one at a time: (3, H, W) float in [0, 1] and the class number."""

    def __init__(self, samples: Samples) -> None:
        """Show these samples; ``targets`` are their labels, as torchvision's data sets call them."""
        self.samples = samples
        self.targets = samples.labels.tolist()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image and its class number."""
        image = torch.from_numpy(self.samples.images[self.samples.rows[index]].copy())
        return image.permute(2, 0, 1).float() / 255, self.targets[index]


def as_stored(images: Tensor) -> Tensor:
    """Return images in [0, 1], of any shape, as the uint8 that they were, or came nearest to."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def experiences(stream: TaskStream, split: str = "train") -> list[CLExperience]:
    """Return the tasks of a stream as Avalanche experiences of the split: train, validation or test.

    Their task labels tell the task where the scenario does, and are 0 elsewhere.
    """
    parts = (getattr(task, split) for task in stream.tasks)  # asked for once the split is known to be one
    return as_experiences(parts, split, tasks_told=stream.scenario == "task")


def as_experiences(parts: Iterable[Samples], split: str, *, tasks_told: bool = False) -> list[CLExperience]:
    """Return an experience for each part, with its classes, the earlier and the later ones.

    Its task label is 0, or with ``tasks_told`` its place. Labels are class numbers in stream order.
    Images are as stored: transforms are the strategy's matter.
    """
    import_avalanche()
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
    from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset
    from avalanche.benchmarks.utils.flat_data import ConstantSequence

    if split not in SPLITS:
        raise ValueError(f"no split {split!r} (allowed: {', '.join(SPLITS)})")
    datasets = []
    for place, pictures in enumerate(map(Pictures, parts)):
        told = ConstantSequence(place if tasks_told else 0, len(pictures))
        attributes = [
            DataAttribute(pictures.targets, "targets"),
            DataAttribute(told, "targets_task_labels", use_in_getitem=True),
        ]
        datasets.append(TaskAwareSupervisedClassificationDataset([pictures], data_attributes=attributes))
    benchmark = benchmark_from_datasets(**{split: datasets})
    return list(with_task_labels(with_classes_timeline(benchmark)).streams[split])
