"""Fine-tune a ConvNet task after task with batch-norm means that stay true, and in stages (ConFiT).

S. Jie, Z.-H. Deng, Z. Li, "Alleviating Representational Shift for Continual Fine-tuning", CVPR Workshops
2022, arXiv 2204.10535. Every task keeps its own batch-norm state; when an old one is tested, the means are
computed anew with the present kernels (``clbench.learning.cross_convolution``). In every task the head learns
first, then the norms, too, then everything (``clbench.learning.stages``).

The defaults are those of the authors' own code, the data sets' own where they are streams of ours. In a
single pass there are no stages: everything learns (``hierarchical=false``).

On a backbone without batch norms, or with a module that leaves them as they are, the stages alone remain.

Differs from the paper: images are transformed as the stream and the backbone say; the paper does not augment
(``--set stream.augment=none``). A tenth of the training images is held out for tuning: ``--set
stream.validation_rate=0`` trains on all. Heads start from N(0, 0.001^2), the authors' as torch draws a linear
layer. Their class orders are Avalanche's, shuffled with seed 0.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.classifier import Classifier
from clbench.learning.cross_convolution import CrossConvolution, find_pairs
from clbench.learning.stages import open_stage
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("confit", petl="full")
@dataclass
class ConFiT(Strategy):
    """Cross-convolution batch norm and hierarchical fine-tuning; without both, plain fine-tuning."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-cifar100": {"batch_size": 128},
        "split-cub200": {"epochs": 50},
        "online": {"hierarchical": False},
    }
    needs: ClassVar[tuple[str, ...]] = ("boundaries", "task-identity", "new-classes", "disjoint-classes")

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 32
    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cross_convolution: bool = True  # keep each task's batch-norm state, and recover the means of old tasks
    hierarchical: bool = True  # train the head, then the norms, too, then everything; else all at once

    def __post_init__(self) -> None:
        """Refuse stages of which all but the first would have no epoch."""
        if self.hierarchical and self.epochs < 2:
            raise ValueError(
                f"hierarchical=true with epochs={self.epochs} would train the head alone; use 2 epochs or"
                " more, or hierarchical=false"
            )

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and track what goes into the convolutions before batch norms."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.classes: list[list[int]] = []  # of each task begun
        has_batch_norms = any(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())
        self.moves_statistics = has_batch_norms and petl.trains_backbone
        size = backbone.preprocessing.image_size
        image = torch.zeros(1, 3, size, size, device=backbone.device)
        is_tracked = self.cross_convolution and self.moves_statistics
        pairs = find_pairs(backbone, image) if is_tracked else []
        self.norms = CrossConvolution(pairs) if pairs else None

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head and the batch-norm states."""
        norms = {} if self.norms is None else {"batch norms": self.norms}
        return {**self.model.parts(), **norms}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes, and room for the batch-norm state."""
        self.model.grow(task)
        self.classes.append(task.classes)
        self.model.module.requires_grad_(True)
        if self.norms is not None:
            self.norms.begin_task()

    def begin_epoch(self, epoch: int) -> None:
        """Let learn what the epoch's stage allows."""
        if self.hierarchical:
            open_stage(self.model.module, epoch, self.epochs)

    def before_step(self, batch: Batch) -> Batch:
        """Let the running statistics follow, also while the head learns alone."""
        if self.moves_statistics:
            self.model.module.train(self.model.head.training)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the current task's classes only."""
        classes, backbone = self.classes[batch.task], self.model.backbone
        # batch norms in training mode make other features of an image at each step: none are looked up
        features = backbone(batch.images) if self.moves_statistics else batch.features(backbone)
        return F.cross_entropy(self.model.head(features)[:, classes], batch.labels - classes[0])

    def end_task(self, task: Task, images: Feed) -> None:
        """Keep the batch-norm state."""
        if self.norms is not None:
            self.norms.keep()

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over the classes of the images' task, with the batch norms of that task."""
        assert inputs.task is not None
        with nullcontext() if self.norms is None else self.norms.of_task(inputs.task):
            logits = self.model.logits(inputs).float()
        scores = torch.zeros_like(logits)
        classes = self.classes[inputs.task]
        scores[:, classes] = torch.softmax(logits[:, classes], dim=1)
        return scores
