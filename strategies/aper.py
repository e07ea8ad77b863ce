"""Adapt a module to the first task, then classify by class means of plain and adapted features (APER, ADAM).

D.-W. Zhou, Z.-W. Cai, H.-J. Ye, D.-C. Zhan, Z. Liu, "Revisiting Class-Incremental Learning with Pre-Trained
Models: Generalizability and Adaptivity are All You Need", IJCV 2024, arXiv 2303.07338. The module learns on
the first task with a cosine classifier, and is kept. A class's prototype is the mean of the backbone's
features without the module and with it, one behind the other; the score is a cosine.

The paper's variants are ``aper-adaptformer``, ``aper-ssf``, ``aper-vpt-deep``, ``aper-vpt-shallow`` and
``aper-full``, each with the defaults of the authors' own code on CIFAR-100 and ImageNet-R.
``strategy.recipe=pilot`` takes LAMDA-PILOT's (but for the number of prompts, 30 on ImageNet-R:
``petl.length``).

Differs from the paper:
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Crops cover 8 to 100 % of an image, theirs 5 to 100 %; their class order is that of ``--set
  stream.order=1993``. The cosine of the learning rate goes from step to step, theirs from epoch to epoch.
  Their classifier starts as ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.first_session import FirstSession
from clbench.learning.prototypes import Prototypes
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register


@register("aper", petl="adaptformer")
@dataclass
class APER(Strategy):
    """Cosine to class means of concatenated features; only the first task is trained on."""

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "many-passes")
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"epochs": 5, "batch_size": 128},
        "vpt-deep": {"epochs": 5, "batch_size": 16, "learning_rate": 0.05},
        "adaptformer+split-imagenet-r": {"batch_size": 24, "learning_rate": 0.05, "weight_decay": 5e-3},
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "pilot": {
            "full": {"epochs": 6, "weight_decay": 0.05},
            "full+split-imagenet-r": {"epochs": 5, "batch_size": 144, "weight_decay": 5e-3},
            "vpt-deep": {"epochs": 20, "batch_size": 48, "learning_rate": 0.01},
            "vpt-deep+split-imagenet-r": {"batch_size": 24, "learning_rate": 0.05},
            "vpt-shallow+split-imagenet-r": {"batch_size": 24, "learning_rate": 0.03, "weight_decay": 5e-3},
            "adaptformer+split-imagenet-r": {"epochs": 10, "batch_size": 16},
        }
    }
    module_options: ClassVar[dict[str, dict[str, Any]]] = {
        "adaptformer": {"rank": 64},
        "vpt-deep": {"length": 5, "first_values": "zeros"},
        "vpt-shallow": {"length": 5, "first_values": "zeros"},
    }

    epochs: Annotated[int, Field(ge=1)] = 20  # on the first task
    batch_size: Annotated[int, Field(ge=1)] = 48
    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "cosine"

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start without prototypes."""
        self.backbone = backbone
        self.session = FirstSession(backbone, petl, seeds)
        self.prototypes = Prototypes(2 * backbone.width)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the prototypes."""
        return {**self.session.parts(), "prototypes": self.prototypes}

    def num_epochs(self, task_index: int) -> int:
        """Train on the first task only."""
        return self.epochs if task_index == 0 else 0

    def begin_task(self, task: Task) -> None:
        """Make room for the new classes' prototypes."""
        self.session.begin_task(task)
        self.prototypes.grow(len(task.new_classes), self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over the first task's classes."""
        return self.session.loss(batch)

    @torch.no_grad()
    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to their classes' means."""
        self.session.freeze()
        for batch in images:
            self.prototypes.add(self._features(batch), batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the cosines."""
        return self.prototypes.cosines(self._features(inputs))

    def _features(self, inputs: Inputs) -> Tensor:
        """Return the features (B, 2 D) without the module, then with it."""
        self.session.module.enabled = False
        plain = inputs.features(self.backbone)
        self.session.module.enabled = True
        return torch.cat([plain, inputs.features(self.backbone)], dim=1)
