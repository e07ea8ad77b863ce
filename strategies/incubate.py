"""Incubate one module of the network anew for each task, in its place among the others, which stay.

Module-wise plasticity, our choice and no paper's. It takes up how Z. Ni et al., "Deep Incubation", ICCV 2023,
arXiv 2212.04129, pre-train a network (here ``clbench pretrain incubation``), and turns it to learning
continually. The blocks of the frozen network form K modules, runs of neighbouring ones. For a task one of
them, M_i, learns in its place from the loss of the whole, while all others, N_j, stay as they are:

    min over M_i and the head of CE(head(N_K . ... . M_i . ... . N_1 (x)), y)

The loss is among the task's classes. Modules in front of M_i run without a graph, once an image where nothing
is augmented; those behind it pass gradients on. Then M_i is assembled. With ``old=expert`` the old one stays,
too, so that each task t has an expert, a module and a head for its classes, which nobody changes again:

    p(c | x) = sum_t p(t | x) p(c | x, t)

p(c | x, t) is the expert's softmax; p(t | x) sums over the task's classes the posteriors of a linear
discriminant analysis of the features of the network as it was pre-trained, its covariance shrunk. An image
takes t + 1 passes. With ``old=replaced`` the newest module alone is kept in a place, and nothing is done
against forgetting but what a small ``slowness`` does.

Differs from the paper:
- The network around a module is the whole pre-trained one, not a small one of the same shapes; nothing is
  fine-tuned end to end after assembling.
- A module begins as a copy of what is in its place; an expert's, of what was pre-trained. ``begins=anew``
  draws it at random as in the paper: weights from N(0, 0.02^2), zero biases.
- What learns of a module are the weights and biases of its linear layers: norms and LayerScale, which stay,
  are affine and stand before or behind one in a Vision Transformer. What is in front of all blocks and the
  norm behind them belong to no module. ConvNets are refused.

Shapes: B images, T tasks, C columns (a class of a task each, in the order of the tasks), D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.errors import UserError
from clbench.learning.gaussians import Gaussians
from clbench.learning.heads import GrowingHead
from clbench.learning.losses.local_cross_entropy import local_cross_entropy
from clbench.petl import Petl, name_of
from clbench.petl.attached import Attached
from clbench.petl.linear import Linear
from clbench.petl.parts.block_weights import BlockWeights, draw_anew
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register

NUM_MODULES = 4  # of a network that has as many blocks, where nothing is said
LEAST_SHARE = 1e-30  # of an expert in an answer, so that the order of its classes is never lost
LEAST_VARIANCE = 1e-6  # of features, so that one image a class suffices


class IncubateError(UserError, ValueError):
    """A module that cannot be incubated."""


@register("incubate", petl="linear")
@dataclass
class Incubate(Strategy):
    """A module of the network learns each task, and takes its place or becomes an expert."""

    gives_probabilities: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("tokens", "boundaries")
    rereads: ClassVar[str] = "the statistics by which an expert is chosen"

    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 0.001  # of the head
    schedule: Schedule = "cosine"
    modules: Annotated[int, Field(ge=0)] = 0  # K, of the whole network; 0: 4, or one a block
    module: Annotated[str, Field(pattern=r"^(first|last|next|[1-9]\d*)$")] = (
        "last"  # which learns: first, last or a number; or next: each in turn, from the last to the first
    )
    begins: Literal["copy", "anew"] = "copy"  # as what is in its place, or at random
    old: Literal["replaced", "expert"] = "expert"  # what becomes of the module that was there
    slowness: Annotated[float, Field(gt=0)] = 1.0  # the module's rate as a share of the head's
    shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.01  # of the covariance by which an expert is chosen

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Divide the backbone; no module has learnt yet."""
        if not isinstance(petl, Linear):
            raise IncubateError(
                f"incubate learns a part of the backbone, with module linear, and takes no {name_of(petl)}"
            )
        self.divided = self._divided(backbone)
        self.backbone, self.seeds = backbone, seeds
        self.incubated: dict[int, Attached] = {}  # by the task, of experts; else by the place
        self.head = GrowingHead(backbone.width, bits=self.head_bits)
        self.num_classes = 0  # seen so far
        self.columns: list[list[int]] = []  # the classes that each expert knows
        self.gaussians = Gaussians(backbone.width, is_shared=True)
        self.known: tuple[Tensor, Tensor] | None = None  # discriminants of what the Gaussians are now

    def parts(self) -> dict[str, nn.Module]:
        """Hold the incubated modules, the head, and by what an expert is chosen."""
        modules = {f"module {key + 1}": module for key, module in self.incubated.items()}
        gaussians = {"gaussians": self.gaussians} if self.old == "expert" else {}
        return {**modules, "head": self.head, **gaussians}

    def begin_task(self, task: Task) -> None:
        """Let one module learn, and grow the head: for the new classes, or for all that an expert meets."""
        place = self._place(task.index)
        keeps = self.old == "expert"
        for module in self.incubated.values():
            module.requires_grad_(False)
            module.enabled = not keeps
        self._incubate(place, task.index if keeps else place, task.index)
        self.num_classes += len(task.new_classes)
        self.classes = list(task.classes)
        self.columns.append(self.classes)
        device, generator = self.backbone.device, self.seeds.generator("head", task.index)
        if keeps:
            self.head.requires_grad_(False)
            self.gaussians.grow(len(task.classes), device)
            self.known = None
        self.head.grow(len(task.classes if keeps else task.new_classes), generator, device)

    def before_training(self, task: Task, images: Feed) -> None:
        """Learn what the task's images look like to the network as it was pre-trained."""
        if self.old == "expert":
            first = len(self.gaussians.counts) - len(self.classes)
            self._switch_on(None)
            for batch in images:
                self.gaussians.add(batch.features(self.backbone), first + self._own(batch.labels))
            self._switch_on(self.newest)
            self.known = None

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the task's classes."""
        features = batch.features(self.backbone)
        if self.old == "expert":
            return F.cross_entropy(self.head.tasks[-1](features), self._own(batch.labels))
        return local_cross_entropy(self.head(features), batch.labels, self.classes)

    def end_task(self, task: Task, images: Feed) -> None:
        """Assemble: the module stays as it is, in its place."""
        self.newest.requires_grad_(False)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen, or the sum of what the experts say."""
        if self.old == "replaced":
            return torch.softmax(self.head(inputs.features(self.backbone)).float(), dim=1)
        self._switch_on(None)
        share_BT = self._shares(inputs.features(self.backbone))
        said = []
        for expert, head, share_B in zip(
            self.incubated.values(), self.head.tasks, share_BT.unbind(dim=1), strict=True
        ):
            self._switch_on(expert)  # the newest in the end, which may be learning
            logits = head(inputs.features(self.backbone))
            said.append(share_B[:, None] * torch.softmax(logits.float(), dim=1))
        said_BC = torch.cat(said, dim=1)
        classes = torch.tensor([each for own in self.columns for each in own], device=said_BC.device)
        return said_BC.new_zeros(said_BC.shape[0], self.num_classes).index_add(1, classes, said_BC)

    def _incubate(self, place: int, key: int, task: int) -> None:
        """Put a module in its place to learn; it begins as what is there, or as it is, or anew."""
        generator = self.seeds.generator("incubate", task)
        if key not in self.incubated:
            blocks = self.divided[place]
            self.incubated[key] = BlockWeights(blocks, self.slowness).attach(self.backbone, generator)
        self.newest = self.incubated[key].requires_grad_(True)
        if self.begins == "anew":
            draw_anew(self.newest, generator)

    def _place(self, task: int) -> int:
        """Return which module learns a task, from 0 on."""
        number = len(self.divided)
        places = {"first": 0, "last": number - 1, "next": number - 1 - task % number}
        return places[self.module] if self.module in places else int(self.module) - 1

    def _divided(self, backbone: Backbone) -> list[range]:
        """Return the blocks of each module, if there is the one that is to learn."""
        depth = len(backbone.blocks)
        number = self.modules or min(NUM_MODULES, depth)
        if number > depth:
            raise IncubateError(
                f"strategy.modules: {number} are more than the {depth} blocks of {backbone.name}"
            )
        if self.module.isdigit() and int(self.module) > number:
            raise IncubateError(
                f"strategy.module: {self.module} is none of the {number} modules of {backbone.name};"
                f" use 1 to {number}, first, last or next, or other strategy.modules"
            )
        return [range(place * depth // number, (place + 1) * depth // number) for place in range(number)]

    def _own(self, labels: Tensor) -> Tensor:
        """Return the places (B,) of labels among the task's classes."""
        places = labels.new_zeros(self.num_classes)
        places[self.classes] = torch.arange(len(self.classes), device=labels.device)
        return places[labels]

    def _switch_on(self, one: Attached | None) -> None:
        """Let the network have one expert's module and no other."""
        for module in self.incubated.values():
            module.enabled = module is one

    def _shares(self, feature_BD: Tensor) -> Tensor:
        """Return p(t | x), (B, T)."""
        if self.known is None:
            weight_DC, bias_C = self.gaussians.discriminants(self.shrinkage, least_variance=LEAST_VARIANCE)
            self.known = weight_DC.float(), bias_C.float()
        weight_DC, bias_C = self.known
        with torch.autocast(feature_BD.device.type, enabled=False):
            posterior_BC = torch.softmax(feature_BD.float() @ weight_DC + bias_C, dim=1)
        tasks = [task for task, own in enumerate(self.columns) for _ in own]
        tasks_C = torch.tensor(tasks, device=posterior_BC.device)
        share_BT = posterior_BC.new_zeros(posterior_BC.shape[0], len(self.columns))
        return share_BT.index_add(1, tasks_C, posterior_BC).clamp_min(LEAST_SHARE)
