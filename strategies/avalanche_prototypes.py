"""Run Avalanche's strategies that predict by class means or prototypes, in Avalanche's own loop.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405 (version 0.6.0). How they run, and what differs from our own strategies, is said in
``avalanche.py``: clbench show avalanche.naive.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.avalanche.strategy import REPLAY, Online, WithMemory, plugin
from clbench.runs.optimizers import make_optimizer
from clbench.strategies import Task, register

if TYPE_CHECKING:
    from avalanche.benchmarks import CLExperience

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, le=1)]


@dataclass
class NearestMean(WithMemory):
    """A strategy of Avalanche that predicts the class whose mean over the memory is nearest."""

    gives_probabilities: ClassVar[bool] = False

    def scores(self, features: Tensor) -> Tensor:
        """Return minus the distances to the class means."""
        scores: Tensor = self.learner.model.eval_classifier(features)
        return scores

    def answers(self) -> Iterable[Tensor]:
        """Yield the class means."""
        yield self.learner.model.eval_classifier.class_means

    def answer_by(self, answers: list[Tensor]) -> None:
        """Take the class means."""
        self.learner.model.eval_classifier.load_state_dict({"class_means": answers[0]})


@register("avalanche.icarl", petl="adapter")
@dataclass
class ICaRL(NearestMean):
    """Avalanche's iCaRL: binary cross-entropy and distillation, herded exemplars, and their nearest mean.

    S.-A. Rebuffi et al., CVPR 2017, arXiv 1611.07725.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries", "many-passes", "disjoint-classes")
    method: ClassVar[str] = "ICaRL"

    def make_learner(self, task: Task) -> Any:
        """Give it the encoder and the classifier apart."""
        from avalanche.training.supervised import ICaRL as Theirs

        from clbench.avalanche.model import NewTeacher

        return Theirs(
            feature_extractor=self.encoder,
            classifier=self.head,
            optimizer=make_optimizer(self, self.backbone.device),
            memory_size=self.memory_size,
            buffer_transform=None,
            fixed_memory=True,
            plugins=[*self.plugins(), NewTeacher()],
            **self.sizes(),
        )

    def learn(self, experiences: list[CLExperience]) -> None:
        """Say which classes came when, as Avalanche's own class-incremental benchmarks do, and train."""
        experiences[-1].benchmark = SimpleNamespace(
            n_classes_per_exp=[len(each.classes_in_this_experience) for each in experiences],
            classes_order=list(range(self.num_classes)),
        )
        super().learn(experiences)

    def store(self) -> Any:
        """Return the exemplars."""
        found = plugin(self.learner, "_ICaRLPlugin")
        classes = zip(found.x_memory, found.y_memory, strict=True)
        return [row for images, labels in classes for row in zip(images, labels, strict=True)]


@register("avalanche.scr", petl="adapter")
@dataclass
class SCR(Online, NearestMean):
    """Avalanche's SCR: a supervised contrastive loss on two views, and the memory's nearest class mean.

    Z. Mai et al., "Supervised Contrastive Replay", CVPR workshops 2021, arXiv 2103.13885.
    """

    method: ClassVar[str] = "SCR"
    holder: ClassVar[str] = "replay_plugin"
    keywords: ClassVar[dict[str, str]] = {**REPLAY, "temperature": "temperature"}

    replay_batch: Count = 100  # images replayed a step
    temperature: Positive = 0.1  # of the softmax: higher is softer
    projection: Count = 128  # numbers that the loss compares

    def make_head(self, width: int) -> nn.Module:
        """Return the projection."""
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.projection))

    def make_learner(self, task: Task) -> Any:
        """Give it the model that it wants."""
        from avalanche.models import SCRModel
        from avalanche.training.supervised import SCR as Theirs

        return Theirs(
            model=SCRModel(self.encoder, self.head),
            optimizer=make_optimizer(self, self.backbone.device),
            plugins=self.plugins(),
            **self.sizes(),
            **self.own(),
        )

    def scores(self, features: Tensor) -> Tensor:
        """Return minus the distances on the sphere."""
        return super().scores(F.normalize(features, dim=1))


@register("avalanche.slda", petl="linear")
@dataclass
class SLDA(Online):
    """Avalanche's StreamingLDA: class means and one covariance of features, updated image by image.

    T. Hayes, C. Kanan, CVPR workshops 2020, arXiv 1909.01520. One pass, whatever ``epochs`` says; a module
    stays as it begins.
    """

    method: ClassVar[str] = "StreamingLDA"

    shrinkage: Rate = 1e-4  # towards the identity

    def make_head(self, width: int) -> nn.Module:
        """Freeze the module; there is no head."""
        self.encoder.module.requires_grad_(False)
        return nn.Identity()

    def make_learner(self, task: Task) -> Any:
        """Give it the encoder, and no classes yet."""
        from avalanche.training.supervised import StreamingLDA

        return StreamingLDA(
            slda_model=self.encoder,
            criterion=nn.CrossEntropyLoss(),
            input_size=self.backbone.width,
            num_classes=0,
            shrinkage_param=self.shrinkage,
            **{**self.sizes(), "train_epochs": 1},
        )

    def learn(self, experiences: list[CLExperience]) -> None:
        """Make room for the new classes, and learn."""
        more = self.num_classes - len(self.learner.cK)
        self.learner.muK = F.pad(self.learner.muK, (0, 0, 0, more))
        self.learner.cK = F.pad(self.learner.cK, (0, more))
        super().learn(experiences)

    def scores(self, features: Tensor) -> Tensor:
        """Return the discriminants."""
        scores: Tensor = self.learner.predict(features)
        return scores

    def answers(self) -> Iterable[Tensor]:
        """Yield means, counts and the covariance."""
        return (self.learner.muK, self.learner.cK, self.learner.Sigma)

    def answer_by(self, answers: list[Tensor]) -> None:
        """Take them."""
        self.learner.muK, self.learner.cK, self.learner.Sigma = answers


@register("avalanche.cope", petl="adapter")
@dataclass
class CoPE(Online, WithMemory):
    """Avalanche's CoPE: prototypes that move slowly, and a loss that draws features to them.

    M. De Lange, T. Tuytelaars, "Continual Prototype Evolution", ICCV 2021, arXiv 2009.00919. It makes one
    step an experience, whatever ``epochs`` says, so that a task is always cut into batches.
    """

    method: ClassVar[str] = "CoPE"
    holder: ClassVar[str] = "CoPEPlugin"
    keywords: ClassVar[dict[str, str]] = {
        "memory_size": "mem_size",
        "prototype_size": "p_size",
        "prototype_decay": "alpha",
        "temperature": "T",
    }

    micro_experiences: Literal[True] = True
    prototype_size: Count = 100  # numbers in a prototype
    prototype_decay: Rate = 0.99  # share of a prototype that a batch keeps
    temperature: Positive = 0.1  # of the softmax: higher is softer

    def make_head(self, width: int) -> nn.Module:
        """Return the layer that makes what is compared with prototypes."""
        return nn.Linear(width, self.prototype_size)

    def make_learner(self, task: Task) -> Any:
        """Let it draw a prototype when a class is first seen, and print what it prints now."""
        learner = super().make_learner(task)
        self.prototypical = plugin(learner, "CoPEPlugin")
        self.prototypical.p_init_adaptive = True
        with redirect_stdout(StringIO()):
            self.prototypical.before_training(learner)
        return learner

    def scores(self, features: Tensor) -> Tensor:
        """Return the cosines to the prototypes, over the temperature."""
        return F.normalize(self.head(features), dim=1) @ self.prototypes().T / self.temperature

    def prototypes(self) -> Tensor:
        """Return the prototypes (classes seen, numbers); 0 for a class without."""
        known = self.prototypical.p_mem
        absent = torch.zeros(1, self.prototype_size, device=self.backbone.device)
        return torch.cat([known.get(number, absent) for number in range(self.num_classes)])

    def answers(self) -> Iterable[Tensor]:
        """Yield the prototypes."""
        yield self.prototypes()

    def answer_by(self, answers: list[Tensor]) -> None:
        """Take the prototypes."""
        self.prototypical.p_mem = {number: row[None] for number, row in enumerate(answers[0])}
