"""Gather what a course is made of: the opened backbone, and the images of a stream without their tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench import backbones
from clbench.backbones.backbone import Backbone
from clbench.backbones.creation import classifier_of
from clbench.data.batches import Batcher
from clbench.data.joined_images import joined_images
from clbench.data.samples import Samples, join
from clbench.data.tasks import Places
from clbench.pretrain.asked import Asked
from clbench.runs.earlier import build_stream
from clbench.seeds import Seeds


@dataclass(frozen=True)
class Materials:
    """What a method may use."""

    backbone: Backbone
    # weight (C, D) and bias (C,) that the backbone's weights came with, where their file has a classifier
    classifier: tuple[Tensor, Tensor] | None
    batcher: Batcher  # with the stream's own training transform
    train: Samples  # training images of all tasks, each once; neither validation nor test
    validation: Samples  # those of all tasks that are held out to choose by; mostly none
    test: Samples  # test images of all tasks, to see what was learnt; nothing is chosen by them
    num_classes: int  # of the stream
    stream_digest: str
    notes: Sequence[str]  # of stream and backbone, a line each
    seeds: Seeds
    asked: Asked
    places: Places
    told: dict[str, Tensor] = field(default_factory=dict)  # by teachers: asking one takes long
    num_extra: int = 0  # classes behind those of the stream, that are learnt from and never asked for

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.batcher.device

    def fresh_backbone(self, seed: int) -> Backbone:
        """Return a backbone of the kind that is asked for, with weights drawn by another seed."""
        asked = self.asked
        return backbones.create(asked.backbone.name, asked.backbone_options(), seed=seed).to(self.device)

    def with_more(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Materials:
        """Return these with more training images (N, H, W, 3) of other classes, whose labels begin at 0."""
        before, own = self.batcher.images, self.batcher
        joined = joined_images([before, images])
        rows = np.concatenate([self.train.rows, len(before) + np.arange(len(images))])
        labels = np.concatenate([self.train.labels, self.num_classes + labels])
        return replace(
            self,
            batcher=Batcher(joined, own.preprocessing, own.augment, own.device),
            train=Samples(joined, rows, labels),
            num_extra=int(labels.max()) + 1 - self.num_classes,
        )

    def held_out(self, accuracy: Callable[[Batcher, Samples], float]) -> dict[str, Any]:
        """Return the accuracy on test images and on those of validation, where there are any."""
        parts = {"test": self.test, "validation": self.validation}
        return {
            name: {"images": len(part), "accuracy": round(accuracy(self.batcher, part), 4)}
            for name, part in parts.items()
            if len(part)
        }


def gathered(asked: Asked, places: Places) -> Materials:
    """Open the backbone and read the images that are asked for."""
    seeds, device = Seeds(asked.seed), torch.device(asked.device)
    stream = build_stream(asked.stream, places, seeds)
    name, options, folder = asked.backbone.name, asked.backbone_options(), places.data_dir
    backbone = backbones.create(name, options, seed=seeds.derive("weights"), folder=folder).to(device)
    images = stream.tasks[0].train.images
    return Materials(
        backbone=backbone,
        classifier=classifier_of(name, options, backbone.width, folder=folder),
        batcher=Batcher(images, backbone.preprocessing, stream.augment, device),
        train=_each_once([task.train for task in stream.tasks]),
        validation=_each_once([task.validation for task in stream.tasks]),
        test=_each_once([task.test for task in stream.tasks]),
        num_classes=len(stream.class_names),
        stream_digest=stream.digest,
        notes=[*stream.notes, *backbone.notes],
        seeds=seeds,
        asked=asked,
        places=places,
    )


def _each_once(parts: Sequence[Samples]) -> Samples:
    """Return the samples of all tasks in the order of their rows, those that come back once."""
    whole = join(parts)
    _, first = np.unique(whole.rows, return_index=True)
    return whole.select(first)
