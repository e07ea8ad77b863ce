"""Run Avalanche's own strategies, in Avalanche's own loop, between our streams and our evaluator.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405 (version 0.6.0). Each task is one of its experiences; its model is the frozen backbone with
our module and a head that grows; a batch is augmented on its way through the model. What it keeps between
tasks outside the model is copied into the part "kept", to be counted. A stopped run begins anew.

Differs from our own strategies: the optimiser goes on from task to task, an incomplete last batch is learnt,
the learning rate is constant, steps are neither watched nor shown, and training is never in half precision.
What Avalanche offers and is not offered here is in ``REFUSED``, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.avalanche.strategy import REPLAY, FromAvalanche, Online, WithMemory, plugin
from clbench.cards import read_rows
from clbench.data.samples import Samples, join
from clbench.errors import UserError
from clbench.strategies import Task, register
from clbench.tables import make_class

if TYPE_CHECKING:
    from avalanche.benchmarks import CLExperience

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, le=1)]

OWN_MODEL = "it builds its own model: "
REFUSED = {  # what avalanche.training.supervised holds and no file here offers
    "AETraining": "it trains an autoencoder, not a classifier",
    "AR1": OWN_MODEL + "a MobileNet",
    "BiC": "it gives torch's MultiStepLR the argument verbose, which torch has taken away; here: none",
    "ExpertGateStrategy": OWN_MODEL + "AlexNets, chosen by autoencoders of their features",
    "GSS_greedy": "it replays the empty places of its memory as black images of class 0",
    "GenerativeReplay": "its generator is a perceptron scaled for MNIST, which fails on a last batch of one",
    "LaMAML": "it draws every linear layer anew, a module's zeros among them",
    "LearningToPrompt": OWN_MODEL + "a copied ViT that fails with timm 1; here: l2p",
    "ObjectDetectionTemplate": "it finds objects in images",
    "PNNStrategy": OWN_MODEL + "columns of perceptrons",
    "PackNet": "it prunes the layers of a network with a fixed head, and has to be told the task",
    "VAETraining": "it trains an autoencoder, not a classifier",
}


class TooFewError(UserError, ValueError):
    """A memory that cannot fill a batch."""


class NoSolverError(UserError, ImportError):
    """A package that only one of the strategies needs, and that is not installed."""


@register("avalanche.joint", petl="adapter")
@dataclass
class Joint(FromAvalanche):
    """Avalanche's JointTraining: all tasks at once, after the last one has come."""

    method: ClassVar[str] = "JointTraining"

    def training_samples(self, seen: Sequence[Task], num_tasks: int) -> Samples | None:
        """Wait for the last task: it can be trained only once."""
        return join([task.train for task in seen]) if len(seen) == num_tasks else None

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train on all experiences together."""
        self.learner.train(experiences, eval_streams=[])


@register("avalanche.replay", petl="adapter")
@dataclass
class Replay(Online, WithMemory):
    """Avalanche's Replay (ER): batches half new, half from a memory with as many images of each task.

    A. Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv 1902.10486. Where
    batches are experiences the memory is a reservoir.
    """

    method: ClassVar[str] = "Replay"
    holder: ClassVar[str] = "ReplayPlugin"
    keywords: ClassVar[dict[str, str]] = {"memory_size": "mem_size"}

    def make_learner(self, task: Task) -> Any:
        """Choose the memory."""
        learner = super().make_learner(task)
        if self.micro_experiences:
            from avalanche.training.storage_policy import ReservoirSamplingBuffer

            plugin(learner, self.holder).storage_policy = ReservoirSamplingBuffer(self.memory_size)
        return learner


@register("avalanche.gdumb", petl="adapter")
@dataclass
class GDumb(WithMemory):
    """Avalanche's GDumb: at every task from the first values again, on a class-balanced memory alone.

    A. Prabhu, P. Torr, P. Dokania, ECCV 2020.
    """

    method: ClassVar[str] = "GDumb"
    holder: ClassVar[str] = "GDumbPlugin"
    keywords: ClassVar[dict[str, str]] = {"memory_size": "mem_size"}

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train, and put what Avalanche's copy of the model has learnt where the module is."""
        super().learn(experiences)
        copied = self.learner.model
        self.encoder.module.load_state_dict(copied.encoder.module.state_dict())
        self.head = copied.classifier


@register("avalanche.der", petl="adapter")
@dataclass
class DER(Online, WithMemory):
    """Avalanche's DER and DER++: replays images with the logits that they had when their task ended.

    P. Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020, arXiv 2004.07211.
    Avalanche expects a head for all classes from the start; here it grows, and a class that was not known
    when logits were stored has 0 there.
    """

    method: ClassVar[str] = "DER"
    keywords: ClassVar[dict[str, str]] = {**REPLAY, "alpha": "alpha", "beta": "beta"}

    replay_batch: Count = 24  # images replayed a step; none are before the memory holds as many
    alpha: Weight = 0.1  # of the squared distance to the stored logits
    beta: Weight = 0.5  # of the cross-entropy on the replayed images; 0: DER, else DER++

    def learn(self, experiences: list[CLExperience]) -> None:
        """Give the stored logits a place for each new class, and train."""
        for group in self.learner.storage_policy.buffer_groups.values():
            for logits in group.buffer.logits.data:
                logits.set_(F.pad(logits, (0, self.num_classes - len(logits))))
        super().learn(experiences)

    def kept(self) -> Iterable[Tensor]:
        """Yield the images, their labels and their logits."""
        yield from super().kept()
        store = self.store()
        yield torch.stack([store[place][3] for place in range(len(store))])


@register("avalanche.er-aml", petl="adapter")
@dataclass
class ERAML(WithMemory):
    """Avalanche's ER-AML: new images learn by metric, replayed ones by cross-entropy.

    L. Caccia et al., ICLR 2022, arXiv 2104.05025. It takes a whole batch of each class from the memory, and
    would wait for ever for a class with fewer images.
    """

    method: ClassVar[str] = "ER_AML"
    keywords: ClassVar[dict[str, str]] = {**REPLAY, "temperature": "temp", "base_temperature": "base_temp"}

    replay_batch: Count = 24  # images replayed a step; none are before the memory holds as many
    temperature: Positive = 0.1  # of the softmax: higher is softer
    base_temperature: Positive = 0.07  # the loss is multiplied by temperature / base_temperature

    def own(self) -> dict[str, Any]:
        """Add what makes features."""
        return {**super().own(), "feature_extractor": self.encoder}

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train, if every class can fill a batch."""
        rarest = min(int(np.bincount(part.labels)[np.unique(part.labels)].min()) for part in self.seen)
        share = min(rarest, self.memory_size // self.num_classes)
        if share < self.batch_size:
            raise TooFewError(
                f"avalanche.er-aml takes {self.batch_size} images of a class at once, and has {share} of one"
                f" (memory_size {self.memory_size}, {self.num_classes} classes); lower strategy.batch_size"
            )
        super().learn(experiences)


@register("avalanche.feature-replay", petl="adapter")
@dataclass
class FeatureReplay(WithMemory):
    """Avalanche's FeatureReplay: the classifier replays features stored as they were, not images.

    S. Magistri et al. (PR-ACE), ICLR 2024.
    """

    method: ClassVar[str] = "FeatureReplay"
    keywords: ClassVar[dict[str, str]] = REPLAY

    replay_batch: Count = 24  # features replayed a step; fewer if the memory holds fewer

    def own(self) -> dict[str, Any]:
        """Let the new images compete among the classes of their task."""
        from avalanche.training.losses import MaskedCrossEntropy

        return {**super().own(), "criterion": MaskedCrossEntropy(mask="new")}

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train, with no larger a batch of features than there will be: it would wait for ever for one."""
        labels = np.concatenate([part.labels for part in self.seen])
        share = self.memory_size // self.num_classes
        held = int(np.minimum(np.bincount(labels), share).sum())
        self.learner.batch_size_mem = max(1, min(self.replay_batch, held))
        super().learn(experiences)

    def kept(self) -> Iterable[Tensor]:
        """Yield the features and their labels."""
        store = self.store()
        yield torch.stack([store[place][0] for place in range(len(store))])
        yield torch.tensor([int(store[place][1]) for place in range(len(store))])


@register("avalanche.ewc", petl="adapter")
@dataclass
class EWC(FromAvalanche):
    """Avalanche's EWC: parameters that mattered for old tasks, by their Fisher information, hardly move.

    J. Kirkpatrick et al., PNAS 2017, arXiv 1612.00796; online: J. Schwarz et al., ICML 2018, 1805.06370.
    """

    method: ClassVar[str] = "EWC"

    strength: Weight = 1000.0  # of the penalty
    mode: Literal["separate", "online"] = "separate"  # a penalty a task, or one that decays
    decay: Rate = 0.9  # of the older importances, online

    def own(self) -> dict[str, Any]:
        """Give a decay where there is one."""
        decay = self.decay if self.mode == "online" else None
        return {"ewc_lambda": self.strength, "mode": self.mode, "decay_factor": decay}

    def kept(self) -> Iterable[Tensor]:
        """Yield importances and the values to stay at."""
        found = plugin(self.learner, "EWCPlugin")
        for task in found.importances:
            yield from (each.data for each in found.importances[task].values())
            yield from (each.data for each in found.saved_params[task].values())


@register("avalanche.si", petl="adapter")
@dataclass
class SI(FromAvalanche):
    """Avalanche's SynapticIntelligence: parameters whose way lowered the loss most hardly move.

    F. Zenke, B. Poole, S. Ganguli, ICML 2017, arXiv 1703.04200. Differs from Avalanche 0.6.0: weights are
    copied to be remembered; without that its penalty is always 0 on a CPU.
    """

    method: ClassVar[str] = "SynapticIntelligence"
    keywords: ClassVar[dict[str, str]] = {"strength": "si_lambda", "damping": "eps"}

    strength: Weight = 1.0  # of the penalty
    damping: Positive = 1e-7  # added to the squared way

    def make_learner(self, task: Task) -> Any:
        """Put right what would be nothing on a CPU."""
        from clbench.avalanche.model import OwnValues

        learner = super().make_learner(task)
        theirs = plugin(learner, "SynapticIntelligencePlugin")
        learner.plugins.insert(learner.plugins.index(theirs) + 1, OwnValues(theirs))
        return learner

    def kept(self) -> Iterable[Tensor]:
        """Yield importances, the values to stay at, and the sums along the way."""
        found = plugin(self.learner, "SynapticIntelligencePlugin")
        for values in (*found.ewc_data, found.syn_data["cum_trajectory"]):
            yield from (each.data for each in values.values())


@register("avalanche.agem", petl="adapter")
@dataclass
class AGEM(WithMemory):
    """Avalanche's A-GEM: no step against the mean gradient of a sample of the memory.

    A. Chaudhry et al., ICLR 2019, arXiv 1812.00420.
    """

    method: ClassVar[str] = "AGEM"
    keywords: ClassVar[dict[str, str]] = {"memory_size": "patterns_per_exp", "replay_batch": "sample_size"}

    memory_size: Count = 200  # images of each task
    replay_batch: Count = 64  # images in the sample, at least one of each task

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train, if the sample has room for each task."""
        if self.replay_batch < len(experiences):
            raise TooFewError(
                f"avalanche.agem takes as many images of each task: strategy.replay_batch {self.replay_batch}"
                f" is too few for {len(experiences)} tasks"
            )
        super().learn(experiences)

    def store(self) -> Any:
        """Return the memory."""
        return [row for part in plugin(self.learner, "AGEMPlugin").buffers for row in part]


@register("avalanche.gem", petl="adapter")
@dataclass
class GEM(WithMemory):
    """Avalanche's GEM: no step against the gradient of any old task's memory. Needs the package quadprog.

    D. Lopez-Paz, M. Ranzato, NeurIPS 2017, arXiv 1706.08840.
    """

    method: ClassVar[str] = "GEM"
    keywords: ClassVar[dict[str, str]] = {"memory_size": "patterns_per_exp", "margin": "memory_strength"}

    memory_size: Count = 200  # images of each task
    margin: Weight = 0.5  # that old gradients are followed by at least

    def make_learner(self, task: Task) -> Any:
        """Return Avalanche's strategy, if there is what solves its quadratic programs."""
        if find_spec("quadprog") is None:
            raise NoSolverError("avalanche.gem needs a solver of quadratic programs: pip install quadprog")
        return super().make_learner(task)

    def store(self) -> Any:
        """Return the memory."""
        found = plugin(self.learner, "GEMPlugin")
        tasks = found.memory_x
        return [row for task in tasks for row in zip(tasks[task], found.memory_y[task], strict=True)]


BASES = {base.__name__: base for base in (FromAvalanche, Online, WithMemory)}
for _row in read_rows(Path(__file__)):
    _made = make_class(_row, [BASES[name] for name in _row.bases], __name__)
    globals()[_row.title] = register(_row.name, **_row.preset)(_made)  # there pickle looks for it
