"""Let a strategy of Avalanche train in its own loop: what all of them have in common.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405. Avalanche is imported when a strategy is set up, since that takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.avalanche.experiences import as_experiences, as_stored
from clbench.avalanche.quietly import import_avalanche
from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Feed, Inputs
from clbench.data.samples import Samples
from clbench.petl import Petl
from clbench.runs.optimizers import make_optimizer
from clbench.runs.soundness import refuse_lost_weights
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task

if TYPE_CHECKING:
    from avalanche.benchmarks import CLExperience

REPLAY = {"memory_size": "mem_size", "replay_batch": "batch_size_mem"}  # what most of Avalanche calls them


@dataclass
class FromAvalanche(Strategy):
    """A strategy of Avalanche, whose ``train`` is called once a task."""

    gives_probabilities: ClassVar[bool] = True  # whether the softmax of the scores is a posterior
    alone: ClassVar[str] = "it trains in Avalanche's own loop, which knows of one process"
    resumable: ClassVar[bool] = False  # its plug-ins hold state outside named tensors
    needs: ClassVar[tuple[str, ...]] = ("boundaries", "many-passes")
    method: ClassVar[str]  # its name in avalanche.training.supervised
    keywords: ClassVar[dict[str, str]] = {}  # the options, and what Avalanche calls them
    fixed: ClassVar[dict[str, Any]] = {}  # what else Avalanche is told
    kind_kept: ClassVar[str] = "importance"  # what it keeps outside its model, see ``clbench.kinds``
    kept_in: ClassVar[tuple[str, ...]] = ()  # paths (``part_of``) of the values that it keeps between tasks

    drop_last: Literal[False] = False
    schedule: Literal["constant"] = "constant"
    head_bits: Literal[32] = 32

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module and make the model."""
        import_avalanche()
        from clbench.avalanche.model import Encoder, Kept, on_its_own

        self.backbone = backbone
        self.seeds = seeds
        self.seen: list[Samples] = []
        self.num_classes = 0
        self.encoder = Encoder(backbone, petl.attach(backbone, seeds.generator("petl")))
        self.kept_tensors, self.answer_tensors = Kept(self.kind_kept), Kept("prototypes")
        with on_its_own(seeds, "avalanche-model"):
            self.head = self.make_head(backbone.width).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head, copies of what else it predicts by, and of what else it keeps."""
        return {
            "petl": self.encoder.module,
            "head": self.head,
            "answers": self.answer_tensors,
            "kept": self.kept_tensors,
        }

    def num_epochs(self, task_index: int) -> int:
        """Return 0: the steps are Avalanche's."""
        return 0

    def begin_task(self, task: Task) -> None:
        """Remember the task; before the first one, make Avalanche's strategy."""
        if not self.seen:
            from clbench.avalanche.model import on_its_own

            with on_its_own(self.seeds, "avalanche-strategy"):
                self.learner = self.make_learner(task)
        self.seen.append(task.train)
        self.num_classes += len(task.new_classes)

    def end_task(self, task: Task, images: Feed) -> None:
        """Let Avalanche train on the task."""
        from clbench.avalanche.model import on_its_own

        batcher = images.at(np.zeros(1, np.int64)).batcher
        generator = self.seeds.generator("augment", task.index)
        self.encoder.view.begin(batcher, generator, images.sampling)
        with on_its_own(self.seeds, "avalanche", task.index):
            self.learn(as_experiences(self.seen, "train"))
        self.encoder.view.forget()
        refuse_lost_weights(self, f"after the last step of task {task.index + 1}")
        self.learner.model.eval()
        self.answer_tensors.hold(self.answers())
        self.kept_tensors.hold(self.kept())

    def take_back(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take what predicting asks for: the module, a head of those shapes, and what else it predicts by."""
        from clbench.avalanche.model import in_order, take

        self.encoder.module.load_state_dict(state["petl"])
        take(self.head, state["head"])
        self.answer_tensors.hold(in_order(state["answers"]))
        self.kept_tensors.hold(in_order(state["kept"]))
        self.answer_by(list(self.answer_tensors.buffers()))

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax of the scores, (B, classes seen), or the scores where they are no logits."""
        scores = self.scores(inputs.features(self.backbone)).float()[:, : self.num_classes]
        return torch.softmax(scores, dim=1) if self.gives_probabilities else scores

    def make_head(self, width: int) -> nn.Module:
        """Return what makes of features (B, width) what the loss is on."""
        from clbench.avalanche.model import growing_head

        return growing_head(width)

    def make_learner(self, task: Task) -> Any:
        """Return Avalanche's strategy; nothing of it is typed."""
        from avalanche.training import supervised

        from clbench.avalanche.model import Network

        common = {
            "model": Network(self.encoder, self.head),
            "optimizer": make_optimizer(self, self.backbone.device),
            "criterion": nn.CrossEntropyLoss(),
            "plugins": self.plugins(),
        }
        return getattr(supervised, self.method)(**{**common, **self.sizes(), **self.own()})

    def plugins(self) -> list[Any]:
        """Return the plug-ins to add."""
        from clbench.avalanche.model import Epochs

        return [Epochs(self.encoder.view)]

    def sizes(self) -> dict[str, Any]:
        """Return the keywords that every strategy of Avalanche takes."""
        return {
            "train_mb_size": self.batch_size,
            "train_epochs": self.epochs,
            "eval_mb_size": 256,
            "device": self.backbone.device,
            "evaluator": None,
        }

    def own(self) -> dict[str, Any]:
        """Return the keywords of the options that it has beyond the common ones."""
        return {theirs: getattr(self, ours) for ours, theirs in self.keywords.items()} | self.fixed

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train on the newest of the experiences so far."""
        self.learner.train(experiences[-1], eval_streams=[])

    def scores(self, features: Tensor) -> Tensor:
        """Return scores (B, at least as many classes as are seen) of features (B, D)."""
        scores: Tensor = self.head(features)
        return scores

    def answers(self) -> Iterable[Tensor]:
        """Yield what the scores depend on beside the module and the head."""
        return ()

    def answer_by(self, answers: list[Tensor]) -> None:
        """Take back what ``answers`` yielded."""

    def kept(self) -> Iterable[Tensor]:
        """Yield what else is kept between tasks: images as uint8, and anything else as it is."""
        for path in self.kept_in:
            yield from values_in(part_of(self.learner, path))


@dataclass
class Online(FromAvalanche):
    """A strategy of Avalanche that can also learn from a stream whose images come once."""

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online": {"micro_experiences": True}}

    micro_experiences: bool = False  # each batch is an experience of its own

    def learn(self, experiences: list[CLExperience]) -> None:
        """Train on the newest experience, whole or cut into batches."""
        if not self.micro_experiences:
            super().learn(experiences)
            return
        from avalanche.benchmarks.scenarios.online import split_online_stream

        parts = split_online_stream([experiences[-1]], self.batch_size, access_task_boundaries=True)
        self.learner.train(parts, eval_streams=[])


@dataclass
class WithMemory(FromAvalanche):
    """A strategy of Avalanche that replays images."""

    kind_kept: ClassVar[str] = "exemplars"
    holder: ClassVar[str] = ""  # the part (``part_of``) that has the memory; empty: the strategy itself

    memory_size: Annotated[int, Field(ge=1)] = 2000  # images

    def store(self) -> Any:
        """Return Avalanche's data set of what is in the memory."""
        holder = part_of(self.learner, self.holder) if self.holder else self.learner
        return holder.storage_policy.buffer

    def kept(self) -> Iterable[Tensor]:
        """Yield the images and their labels."""
        yield from pixels_and_labels(self.store())


def pixels_and_labels(dataset: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
    """Return the images of a data set of Avalanche, (N, 3, H, W) uint8, and their labels (N,)."""
    rows = [dataset[place] for place in range(len(dataset))]
    if not rows:
        return []
    return [as_stored(torch.stack([row[0] for row in rows])), torch.tensor([int(row[1]) for row in rows])]


def plugin(learner: Any, name: str) -> Any:
    """Return the one plug-in of this class that a strategy of Avalanche has."""
    (found,) = [each for each in learner.plugins if type(each).__name__ == name]
    return found


def part_of(learner: Any, path: str) -> Any:
    """Return what lies at a path of attributes; the first may be the class of a plug-in instead."""
    first, *rest = path.split(".")
    is_plugin = any(type(each).__name__ == first for each in learner.plugins)
    return reduce(getattr, rest, plugin(learner, first) if is_plugin else getattr(learner, first))


def values_in(part: Any) -> Iterable[Tensor]:
    """Return the tensors of a model (what is trained of it), or of values that Avalanche holds by name."""
    if isinstance(part, nn.Module):
        return part.state_dict().values()
    return [value.data for value in part.values()]
