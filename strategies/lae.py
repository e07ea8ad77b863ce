"""Learn quickly with one small module, average it slowly into a second, and let both vote (LAE).

Q. Gao, C. Zhao, Y. Sun, T. Xi, G. Zhang, B. Ghanem, J. Zhang, "A Unified Continual Learning Framework with
General Parameter-Efficient Tuning", ICCV 2023, arXiv 2303.10070.

The defaults are those of the authors' own code on CIFAR-100, ImageNet-R and DomainNet;
``strategy.recipe=pilot`` takes LAMDA-PILOT's numbers (not its other schedule, in which the first task
freezes, too). Where an image comes only once there is no epoch in which the head learns alone: the module
would never learn after the first task.

Differs from the paper:
- Images are cropped and normalised as the backbone was pre-trained. The official script feeds [0, 1] and
  keeps 7/8 of the test image: ``--set backbone.normalise=unit --set backbone.crop=0.875 --set
  backbone.interpolation=bilinear``.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Heads start from N(0, 0.001^2), crops cover 8 to 100 % of an image and the classes come in their natural
  order, as the authors' do; their other orders are ``--set stream.order=lae-2`` and ``lae-3``.
- On streams without a recipe of their own, CIFAR-100's is used.
- The adapted blocks are the first 5/12 of any backbone, which is what the paper adapts in each of its three.

With ``ensemble=evidential`` the two modules are experts whose evidence is fused
(``clbench.learning.evidential``): the modes are those of the evidential literature, their use for LAE ours.
Dempster's rule grows more certain even where the experts contradict each other, so images whose conflict
exceeds ``conflict_limit`` get the average instead. The mean conflict after each task is in the run's events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning import evidential
from clbench.learning.heads import GrowingHead
from clbench.petl import Petl
from clbench.petl.attached import Attached, swapped
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register

KL_WEIGHT = 0.1  # of misleading evidence in the evidential loss
LONG_RECIPE = {"epochs": 50, "frozen_epochs": 30, "learning_rate": 0.00046875}


@register("lae", petl="adapter")
@dataclass
class LAE(Strategy):
    """An online module learns, an offline module is its moving average, the two form an ensemble."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-digits": {"frozen_epochs": 12},  # three fifths of the epochs, as in the paper
        "split-imagenet-r": LONG_RECIPE,
        "domainnet": LONG_RECIPE,
        "online": {"frozen_epochs": 0},
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "pilot": {"any": {"petl": "prefix", "batch_size": 128}}
    }

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "new-classes", "disjoint-classes")
    own_variants: ClassVar[tuple[str, ...]] = (
        "online",
        "offline",
    )  # one of the two modules, at half the cost

    frozen_epochs: Annotated[int, Field(ge=0)] = 3  # F: first epochs, but of task 1, that train the head only
    ema_decay: Annotated[float, Field(ge=0, le=1)] = 0.9999  # a: kept of the offline module at each step
    ensemble: Literal["max", "mean", "evidential"] = (
        "max"  # of the modules' probabilities, or of their evidence
    )
    fusion: evidential.Mode = "dempster"  # how evidence is fused
    evidence_scale: Annotated[float, Field(gt=0)] = 1.0  # k: evidence is k softplus(logit)
    reliability: Annotated[float, Field(ge=0, le=1)] = 0.9  # of both experts, for fusion=discounted
    conflict_limit: Annotated[float, Field(ge=0, le=1)] = 1.0  # above it evidence is averaged; 1: never
    evidential_loss: bool = False  # train on the evidence instead of the softmax (its KL term weighs 0.1)

    @property
    def gives_probabilities(self) -> bool:  # type: ignore[override]  # what the ensemble says
        """Whether ``ensemble`` is mean or evidential: the larger of two probabilities, max, is none."""
        return self.ensemble != "max"

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the online module; there is no offline one before the second task."""
        self.backbone = backbone
        self.seeds = seeds
        self.online = petl.attach(backbone, seeds.generator("petl"))
        self.offline: Attached | None = None
        self.head = GrowingHead(backbone.width, bits=self.head_bits)
        self.conflict = torch.zeros(())  # mean over the batch predicted last

    def parts(self) -> dict[str, nn.Module]:
        """Hold the online and offline modules and the head that they share."""
        offline = {} if self.offline is None else {"petl offline": self.offline}
        return {"petl online": self.online, **offline, "head": self.head}

    def begin_task(self, task: Task) -> None:
        """Append a head; before the second task, copy the online module as the offline one."""
        self.first_class = min(task.classes)
        self.head.grow(len(task.new_classes), self.seeds.generator("head", task.index), self.backbone.device)
        if task.index == 1:
            self.offline = self.online.copy().requires_grad_(False)
        self.online.requires_grad_(True)

    def begin_epoch(self, epoch: int) -> None:
        """Freeze the online module during the first epochs of every task but the first."""
        self.online.requires_grad_(self.offline is None or epoch >= self.frozen_epochs)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the current task's classes only: the local cross-entropy."""
        logits = self.head(batch.features(self.backbone))[:, self.first_class :]
        labels = batch.labels - self.first_class
        if self.evidential_loss:
            own = evidential.evidence(logits, self.evidence_scale)
            return evidential.dirichlet_loss(own, labels, kl_weight=KL_WEIGHT)
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Move the offline module towards the online one, at every step, also while that is frozen."""
        if self.offline is None:
            return
        for offline, online in zip(
            self.offline.state_dict().values(), self.online.state_dict().values(), strict=True
        ):
            if offline.is_floating_point():  # Eq. 6: offline <- a * offline + (1 - a) * online
                offline.lerp_(online, 1 - self.ema_decay)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the ensemble of the two modules: the larger probability of each class, or as asked for."""
        online = self._logits(inputs)
        if self.offline is None:
            return self._opinion([online])
        with swapped(off=self.online, on=self.offline):
            return self._opinion([online, self._logits(inputs)])

    def become(self, variant: str) -> None:
        """Keep one of the modules only; before the second task there is one."""
        if self.offline is not None:
            kept, dropped = self.online, self.offline
            if variant == "offline":
                kept, dropped = self.offline, self.online
            dropped.detach()
            kept.enabled = True
            self.online, self.offline = kept, None

    def cautions(self) -> list[str]:
        """Tell of a schedule in which the module stays as the first task left it."""
        if self.frozen_epochs < self.epochs:
            return []
        return [
            f"strategy.frozen_epochs={self.frozen_epochs} of strategy.epochs={self.epochs}: after the first"
            " task the module does not learn, only the head does"
        ]

    def notes(self) -> dict[str, float]:
        """Tell the mean conflict of the two modules on the images predicted last."""
        return {"conflict": float(self.conflict)} if self.ensemble == "evidential" else {}

    def _logits(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.head(inputs.features(self.backbone))
        return logits.float()

    def _opinion(self, experts: list[Tensor]) -> Tensor:
        """Fuse the experts' logits (B, C) into probabilities, or into the larger of each class."""
        if self.ensemble == "evidential":
            return self._fused([evidential.evidence(logits, self.evidence_scale) for logits in experts])
        probabilities = torch.stack([torch.softmax(logits, dim=1) for logits in experts])
        return probabilities.mean(dim=0) if self.ensemble == "mean" else probabilities.amax(dim=0)

    def _fused(self, experts: list[Tensor]) -> Tensor:
        fused = evidential.fuse(experts, self.fusion, [self.reliability] * len(experts))
        average = evidential.fuse(experts, "average")
        is_gated = fused.conflict > self.conflict_limit
        self.conflict = fused.conflict.detach().mean()
        return torch.where(is_gated[:, None], average.probability, fused.probability).float()
