"""Make what a check runs on: a small random backbone, and a stream of coloured squares."""

from __future__ import annotations

import numpy as np

from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.data.samples import Samples
from clbench.data.tasks import Task, TaskStream
from clbench.seeds import forked


def small_backbone() -> Backbone:
    """Return an opened ViT of three blocks of width 32 on images of 8 pixels, with fixed random weights."""
    from timm.models.vision_transformer import VisionTransformer

    with forked(0):
        model = VisionTransformer(8, 2, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    seen = Preprocessing(8, mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0, interpolation="bilinear")
    return open_model("small-vit", model, seen, source="random", digest="small-vit")


def generated_stream(
    num_tasks: int = 2, classes_per_task: int = 2, per_class: int = 24, scenario: str = "class"
) -> TaskStream:
    """Return a stream of 8-pixel images whose classes differ in colour, with noise."""
    random = np.random.default_rng(0)
    num_classes = num_tasks * classes_per_task
    labels = np.repeat(np.arange(num_classes), per_class)
    colours = random.integers(40, 216, size=(num_classes, 1, 1, 3))
    noise = random.integers(-40, 40, size=(len(labels), 8, 8, 3))
    images = (colours[labels] + noise).clip(0, 255).astype(np.uint8)
    tasks = []
    for index in range(num_tasks):
        classes = list(range(index * classes_per_task, (index + 1) * classes_per_task))
        rows = np.flatnonzero(np.isin(labels, classes))
        whole = Samples(images, rows, labels[rows])
        quarter = rows % 4
        test, validation, train = (
            whole.select(quarter == 0),
            whole.select(quarter == 1),
            whole.select(quarter > 1),
        )
        tasks.append(Task(index, classes, classes, train, validation, test))
    names = [f"colour {number}" for number in range(num_classes)]
    order = list(range(num_classes))
    return TaskStream("generated", tasks, order, names, augment="none", scenario=scenario)
