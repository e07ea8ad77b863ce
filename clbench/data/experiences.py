"""Show the tasks of a stream to Avalanche's strategies, as experiences of one of its streams.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from clbench.data.quietly import import_avalanche
from clbench.data.samples import Samples
from clbench.streams import TaskStream

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


def as_experiences(stream: TaskStream, split: str) -> list[CLExperience]:
    """Return an experience a task, with its classes, the earlier and the later ones, and task label 0.

    Labels are class numbers in stream order. The images are as stored: transforms are the strategy's matter.
    """
    import_avalanche()
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
    from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset

    if split not in SPLITS:
        raise ValueError(f"no split {split!r} (allowed: {', '.join(SPLITS)})")
    pictures = [Pictures(getattr(task, split)) for task in stream.tasks]
    datasets = [
        TaskAwareSupervisedClassificationDataset(
            [part],
            data_attributes=[
                DataAttribute(part.targets, "targets"),
                DataAttribute([0] * len(part), "targets_task_labels", use_in_getitem=True),
            ],
        )
        for part in pictures
    ]
    benchmark = benchmark_from_datasets(**{split: datasets})
    return list(with_task_labels(with_classes_timeline(benchmark)).streams[split])
