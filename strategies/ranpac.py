"""Project features at random, and classify them by a ridge regression that sums up what it saw (RanPAC).

M. D. McDonnell, D. Gong, A. Parvaneh, E. Abbasnejad, A. van den Hengel, "RanPAC: Random Projections and
Pre-trained Models for Continual Learning", NeurIPS 2023, arXiv 2307.02251.

Phase 1 trains the module on the first task with a cosine classifier. From then on, with ``h = relu(f W)`` and
W drawn once from N(0, 1), sums ``G += H'H`` and ``Q += H'Y`` (Y: one-hot) give the weights
``(G + ridge I)^-1 Q``. With a fixed ridge and the same module, they depend on neither the order nor the split
of the tasks.

The defaults are those of the authors' own code: ``adaptformer`` on CIFAR-100, ``ssf`` on ImageNet-R.
``strategy.recipe=pilot`` takes LAMDA-PILOT's, whose logits are cosines.

Differs from the paper:
- One eigendecomposition of the current task's images serves all seventeen ridges.
- The images that the ridge is chosen on are a fifth of the task in random order.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Crops cover 8 to 100 % of an image, theirs 5 to 100 %; their class order is that of ``--set
  stream.order=1993``. The cosine of the learning rate goes from step to step, theirs from epoch to epoch.
  Their classifier starts as ours.
- Where rounding leaves ``G + ridge I`` indefinite, the ridge grows by decades.

W is not stored: it is drawn again from the seed. Shapes: B images, M columns of W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.first_session import FirstSession
from clbench.learning.losses.precision import cosines
from clbench.learning.ridge import RidgeRegression, errors_of_ridges
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register

RIDGES = [10.0**exponent for exponent in range(-8, 9)]
FIT_RATE = 0.8  # share of a task's images that the ridges are fitted to; the others compare them


@register("ranpac", petl="adaptformer")
@dataclass
class RanPAC(Strategy):
    """A module adapted to the first task, then sums over the images of all."""

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "many-passes")
    refits: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-digits": {"projection": 1000},  # a task has 260 images
        "split-imagenet-r": {"petl": "ssf"},
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "pilot": {
            "any": {"logits": "cosine"},
            "split-imagenet-r": {
                "petl": "adaptformer",
                "epochs": 10,
                "batch_size": 16,
                "learning_rate": 0.05,
                "weight_decay": 5e-3,
            },
        }
    }
    module_options: ClassVar[dict[str, dict[str, Any]]] = {"adaptformer": {"rank": 64}}

    epochs: Annotated[int, Field(ge=1)] = 20  # of phase 1
    batch_size: Annotated[int, Field(ge=1)] = 48
    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "cosine"
    phase1: bool = True  # train the module on the first task; false, as for ranpac-linear: it stays
    projection: Annotated[int, Field(ge=0)] = 10_000  # M: columns of W, and G has M^2 numbers; 0: h = f
    ridge: Annotated[float, Field(ge=0)] = 0.0  # 0: after each task, the best on a fifth of its images
    logits: Literal["linear", "cosine"] = "linear"  # cosine: of the hidden features to each class's weights

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module and draw the projection."""
        self.backbone = backbone
        self.seeds = seeds
        self.session = FirstSession(backbone, petl, seeds)
        if not self.phase1:
            self.session.freeze()
        generator = seeds.generator("projection")
        self.columns = torch.randn(backbone.width, self.projection, generator=generator).to(backbone.device)
        self.regression = RidgeRegression(self.projection or backbone.width)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the sums and the weights."""
        return {**self.session.parts(), "regression": self.regression}

    def num_epochs(self, task_index: int) -> int:
        """Train on the first task only."""
        return self.epochs if self.phase1 and task_index == 0 else 0

    def begin_task(self, task: Task) -> None:
        """Make room for the new classes."""
        if self.phase1:
            self.session.begin_task(task)
        self.regression.grow(len(task.new_classes), self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return phase 1's loss."""
        return self.session.loss(batch)

    @torch.no_grad()
    def end_task(self, task: Task, images: Feed) -> None:
        """Add the task's images to the sums and solve for the weights."""
        self.session.freeze()
        hidden_NM = self._hidden(images.features(self.backbone))
        num_classes = self.regression.cross.shape[1]
        target_NC = F.one_hot(images.labels.to(hidden_NM.device), num_classes).float()
        self.regression.add(hidden_NM, target_NC)
        self.regression.solve(self.ridge or self._best_ridge(task, hidden_NM, target_NC))

    def forget(self) -> None:
        """Drop the sums, and keep the module that phase 1 has trained."""
        self.regression = RidgeRegression(self.projection or self.backbone.width)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the outputs of the regression, or the cosines."""
        hidden_BM = self._hidden(inputs.features(self.backbone))
        weight_MC = self.regression.weight
        with torch.autocast(hidden_BM.device.type, enabled=False):
            return cosines(hidden_BM, weight_MC.T) if self.logits == "cosine" else hidden_BM @ weight_MC

    def _hidden(self, feature_BD: Tensor) -> Tensor:
        """Return h (B, M): the features, projected at random and rectified."""
        with torch.autocast(feature_BD.device.type, enabled=False):
            return F.relu(feature_BD.float() @ self.columns) if self.projection else feature_BD.float()

    def _best_ridge(self, task: Task, hidden_NM: Tensor, target_NC: Tensor) -> float:
        """Return the ridge whose regression on four fifths of the task errs least on the others."""
        order = torch.randperm(len(hidden_NM), generator=self.seeds.generator("ridge", task.index))
        fit, held = order.to(hidden_NM.device).tensor_split([int(FIT_RATE * len(order))])
        errors = errors_of_ridges(hidden_NM[fit], target_NC[fit], hidden_NM[held], target_NC[held], RIDGES)
        return RIDGES[int(errors.argmin())]
