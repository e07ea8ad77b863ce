"""Train a module for each task, and classify by class means in all their feature spaces (EASE).

D.-W. Zhou, H.-L. Sun, H.-J. Ye, D.-C. Zhan, "Expandable Subspace Ensemble for Pre-Trained Model-Based
Class-Incremental Learning", CVPR 2024, arXiv 2403.12030.

A new class gets a prototype, the mean of its features, in the subspace of every module so far. In the newest
subspace n a class of an old task o, whose images are gone, gets the mixture of the new classes' prototypes
there that suits its likeness to them in its own subspace:

    p_i,n = sum_j softmax_j(cos(p_i,o, p_j,o)) p_j,n

The prototypes of old classes in older subspaces stay as they were complemented when those were the newest.
The authors' published script works them out anew after each task, from all classes met since the subspace was
made: ``old_prototypes=recomputed``. The defaults are otherwise those of the authors' own code on CIFAR-100
and ImageNet-R; LAMDA-PILOT is of the same authors, and its numbers are the same.

A class's score is the cosine in its own subspace plus ``other_weight / (t - 1)`` times the sum of those in
the t - 1 others. An image needs t passes.

Differs from the paper:
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Crops cover 8 to 100 % of an image, theirs 5 to 100 %; their class order is that of ``--set
  stream.order=1993``. The cosine of the learning rate goes from step to step, theirs from epoch to epoch.
  Their classifiers start as ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.heads import CosineHead
from clbench.learning.prototypes import Prototypes
from clbench.learning.subspaces import Subspaces
from clbench.options import LATER
from clbench.petl import Petl
from clbench.petl.attached import Attached
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register


@register("ease", petl="adaptformer")
@dataclass
class EASE(Strategy):
    """One module a task, none of which is changed later."""

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "new-classes", "disjoint-classes", "many-passes")
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-imagenet-r": {"batch_size": 16, "learning_rate": 0.05, "weight_decay": 5e-3},
    }
    module_options: ClassVar[dict[str, dict[str, Any]]] = {"adaptformer": {"rank": 64}}

    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 48
    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.025
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "cosine"
    old_prototypes: Annotated[Literal["complemented", "recomputed"], LATER] = (
        "complemented"  # in a newer subspace, by its own classes; or after each task by all that came since
    )
    other_weight: Annotated[float, Field(ge=0)] = 0.1  # alpha: of all subspaces but a class's own, together

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Remember how to make a module; there is none before the first task."""
        self.backbone = backbone
        self.petl = petl
        self.seeds = seeds
        self.modules: list[Attached] = []
        self.head: CosineHead | None = None
        self.subspaces = Subspaces(backbone.width)

    def parts(self) -> dict[str, nn.Module]:
        """Hold all modules, the prototypes, and the classifier that the newest module learns with."""
        modules = {f"petl {index + 1}": module for index, module in enumerate(self.modules)}
        head = {} if self.head is None else {"head": self.head}
        return {**modules, **head, "subspaces": self.subspaces}

    def begin_task(self, task: Task) -> None:
        """Freeze the modules so far, and attach one for this task with a classifier of its own."""
        self.first_class = min(task.classes)
        for module in self.modules:
            module.requires_grad_(False)
            module.enabled = False
        generator = self.seeds.generator("petl", task.index)
        self.modules.append(self.petl.attach(self.backbone, generator))
        generator = self.seeds.generator("head", task.index)
        self.head = CosineHead(self.backbone.width, len(task.classes), generator).to(self.backbone.device)
        self.subspaces.grow(len(task.classes), self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over the task's classes."""
        assert self.head is not None
        return F.cross_entropy(self.head(batch.features(self.backbone)), batch.labels - self.first_class)

    @torch.no_grad()
    def end_task(self, task: Task, images: Feed) -> None:
        """Find the task's prototypes in all subspaces, and synthesise those that are missing."""
        self.modules[-1].requires_grad_(False)
        means = []
        for _ in self._each():
            prototypes = Prototypes(self.backbone.width)
            prototypes.grow(len(task.classes), self.backbone.device)
            for batch in images:
                prototypes.add(batch.features(self.backbone), batch.labels - self.first_class)
            means.append(prototypes.means)
        self.subspaces.fill(torch.stack(means), recomputes=self.old_prototypes == "recomputed")

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the weighted sums of the cosines."""
        features = torch.stack([inputs.features(self.backbone).float() for _ in self._each()])
        return self.subspaces.scores(features, self.other_weight)

    def _each(self) -> Iterator[None]:
        """Switch on one module after another, alone; the newest, which may be learning, stays on."""
        for module in self.modules:
            for other in self.modules:
                other.enabled = False
            module.enabled = True
            yield
