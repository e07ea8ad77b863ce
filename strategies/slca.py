"""Train the backbone slowly and the head fast, then align the head with features drawn from Gaussians (SLCA).

G. Zhang, L. Wang, G. Kang, L. Chen, Y. Wei, "SLCA: Slow Learner with Classifier Alignment for Continual
Learning on a Pre-trained Model", ICCV 2023, arXiv 2303.05118. The backbone's learning rate is a hundredth of
the head's. After a task the mean and covariance of each new class's features are kept. From the second task
on, the head over all classes then learns from features drawn from these Gaussians, with the cross-entropy of
logits divided by ``logit_norm`` times the mean over the tasks of the length of a task's logits.

The aligned head is for prediction; the next task goes on from the one before the alignment, which is kept.
The defaults are those of the authors' own code on CIFAR-100 and ImageNet-R: the learning rate falls to a
tenth for the last tenth of the epochs, or the last fifth. ``strategy.recipe=pilot`` takes LAMDA-PILOT's.

Differs from the paper:
- Old classes' means are drawn as they are kept; the authors' script shortens them by up to a tenth.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Heads start from N(0, 0.001^2), the authors' from a normal distribution of deviation 0.02, cut at two. They
  shuffle the classes by their seeds, 1993, 1996 and 1997 (``--set stream.order=1993``), vary the brightness
  of CIFAR-100 and normalise by ImageNet's mean (``--set backbone.normalise=imagenet``). Crops cover 8 to 100
  %, as theirs.

Shapes: B drawn features, C classes, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.classifier import Classifier
from clbench.learning.gaussians import Gaussians
from clbench.learning.heads import GrowingHead
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register

COVARIANCE_FLOOR = 1e-4  # added to each variance, so that few images suffice


@register("slca", petl="full")
@dataclass
class SLCA(Strategy):
    """Cross-entropy among the task's classes, with two learning rates, then an alignment of the head."""

    gives_probabilities: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("boundaries", "new-classes", "disjoint-classes", "many-passes")
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-imagenet-r": {"epochs": 50, "milestone": 0.8},  # at a tenth from the 40th epoch on
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "pilot": {
            "any": {"batch_size": 64, "alignment_epochs": 3},
            "split-imagenet-r": {"epochs": 5, "schedule": "constant"},  # its milestone, 40, never comes
        }
    }

    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 128
    optimizer: Literal["adam", "adamw", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01  # of the head
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "step"
    slowness: Annotated[float, Field(gt=0)] = 0.01  # the module's learning rate, as a share of the head's
    alignment_epochs: Annotated[int, Field(ge=0)] = 5  # 0: no alignment
    drawn_per_class: Annotated[int, Field(ge=1)] = 256  # features an epoch; also the batch of a step
    logit_norm: Annotated[float, Field(ge=0)] = 0.1  # temperature of the normalised logits; 0: as they are

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes."""
        self.seeds = seeds
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.unaligned = GrowingHead(backbone.width, bits=self.head_bits)  # as the last task left it
        self.gaussians = Gaussians(backbone.width, is_shared=False)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head before and after alignment, and each class's mean and covariance."""
        return {**self.model.parts(), "head unaligned": self.unaligned, "gaussians": self.gaussians}

    def trainable(self) -> list[dict[str, Any]]:
        """Return the newest task's head, and the module with its own learning rate."""
        module = self.model.module.parameter_groups(self.slowness * self.learning_rate)
        slow = [group for group in module if group["params"]]
        return [{"params": list(self.model.head.tasks[-1].parameters())}, *slow]

    def begin_task(self, task: Task) -> None:
        """Go back to the head before the alignment, and append one for the new classes."""
        self.first_class = min(task.classes)
        self.model.head.load_state_dict(self.unaligned.state_dict())
        self.model.grow(task)
        generator = self.seeds.generator("head", task.index)
        self.unaligned.grow(len(task.new_classes), generator, self.model.backbone.device)
        self.unaligned.requires_grad_(False)
        self.gaussians.grow(len(task.new_classes), self.model.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the current task's classes only."""
        logits = self.model.logits(batch)[:, self.first_class :]
        return F.cross_entropy(logits, batch.labels - self.first_class)

    def end_task(self, task: Task, images: Feed) -> None:
        """Keep the new classes' Gaussians and the head; align the head from the second task on."""
        self.unaligned.load_state_dict(self.model.head.state_dict())
        with torch.no_grad():
            for batch in images:
                self.gaussians.add(batch.features(self.model.backbone), batch.labels)
        if task.index > 0 and self.alignment_epochs:
            self._align(self.seeds.generator("alignment", task.index))

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)

    def _align(self, generator: torch.Generator) -> None:
        """Train the whole head on drawn features, by SGD of its own with momentum and a cosine."""
        weights = [p for p in self.model.head.parameters() if p.requires_grad]
        momenta = [torch.zeros_like(weight) for weight in weights]
        factor_CDD = self._factors()
        for epoch in range(self.alignment_epochs):
            rate = self.learning_rate * (1 + math.cos(math.pi * epoch / self.alignment_epochs)) / 2
            feature_BD, labels = self._drawn(factor_CDD, generator)
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
            for place in order.view(-1, self.drawn_per_class):
                gradients = torch.autograd.grad(
                    self._alignment_loss(feature_BD[place], labels[place]), weights
                )
                with torch.no_grad():
                    for weight, momentum, gradient in zip(weights, momenta, gradients, strict=True):
                        momentum.mul_(self.momentum).add_(gradient + self.weight_decay * weight)
                        weight.sub_(rate * momentum)

    def _alignment_loss(self, feature_BD: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy over all classes of logits that are normalised, task by task."""
        by_task = [head(feature_BD) for head in self.model.head.tasks]
        logits = torch.cat(by_task, dim=1)
        if self.logit_norm:
            lengths = torch.stack([each.norm(dim=1) for each in by_task])
            logits = logits / (self.logit_norm * lengths.mean(dim=0)[:, None] + 1e-7)
        return F.cross_entropy(logits, labels)

    def _factors(self) -> Tensor:
        """Return the Cholesky factors (C, D, D) of the covariances."""
        covariance_CDD = self.gaussians.covariances()
        identity_DD = torch.eye(covariance_CDD.shape[-1], device=covariance_CDD.device)
        factor_CDD: Tensor = torch.linalg.cholesky(covariance_CDD + COVARIANCE_FLOOR * identity_DD)
        return factor_CDD

    def _drawn(self, factor_CDD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return features drawn from every class's Gaussian, and their labels."""
        num_classes, width, _ = factor_CDD.shape
        noise = torch.randn(num_classes, self.drawn_per_class, width, generator=generator)
        feature_CBD = noise.to(factor_CDD) @ factor_CDD.mT + self.gaussians.means.float()[:, None]
        labels = torch.arange(num_classes, device=factor_CDD.device).repeat_interleave(self.drawn_per_class)
        return feature_CBD.flatten(0, 1), labels
