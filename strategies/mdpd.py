"""Let a side network and the backbone's own head teach each other, so that the side network can go (MDPD).

Y. Zhang, J. Chen, H. Chen, K. Zheng, S. Liao, H. Zhong, W. Li, Y. Wang, "Memory-Efficient Transfer Learning
with Fading Side Networks via Masked Dual Path Distillation", CVPR 2026, arXiv 2604.09088. A ladder side
network (``lst``) beside the frozen trunk has a head of its own, which gives y_S; the backbone's final norm
and another head give y_B. In each step, with T = 2 and t the labels, step A learns the side network with

    CE(y_S, t) + L_mim + L_gen              (clbench.learning.losses.feature_distillation)

and step B, from the same pass of the trunk, the backbone's part with

    0.5 CE(y_B, t) + 0.5 T^2 KL(softmax(y_S / T) || softmax(y_B / T)),    y_S without gradient.

The parameters are disjoint and neither loss reaches the other's, so that one backward pass of their sum is
both steps. ``predict`` is the faded path: the plain backbone, as if there had never been a side network.

A reconstruction: the paper's full text and code were not available, and descriptions of it contradict each
other on what the backbone learns. Our choice are

- ``backbone_train=final_norm``: the final norm and the head. ``ln``, every norm and the head, keeps the
  trunk's activations for the backward pass; with ``head`` the trunk stays as it was pre-trained;
- all weights of the losses, T, the share of masked patches and the rank of the projections;
- both steps in every batch, on y_S from before the step; AdamW, its rate and weight decay;
- all that concerns tasks: cross-entropy over all classes seen, the side network carried from task to task
  (``side_network=anew`` draws it again, and what is distilled by, but keeps its head), 5 epochs each.

Nothing here is done against forgetting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.errors import UserError
from clbench.learning.classifier import Classifier
from clbench.learning.heads import GrowingHead
from clbench.learning.losses.distillation import distillation
from clbench.learning.losses.feature_distillation import FeatureDistillation, drawn_mask
from clbench.petl import Petl, name_of
from clbench.petl.linear import Linear
from clbench.petl.lst import LST, Ladder
from clbench.petl.norm_tuning import NormTuning
from clbench.petl.parts.side_network import Observed
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


class NoLadderError(UserError, ValueError):
    """A module that is no side network."""


@register("mdpd", petl="lst")
@dataclass
class MDPD(Strategy):
    """Two paths from one pass of the trunk, each the other's teacher; the side network fades in the end."""

    gives_probabilities: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    own_variants: ClassVar[tuple[str, ...]] = ("side", "faded")  # by the side network; as it always predicts

    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.0001
    backbone_train: Literal["ln", "final_norm", "head"] = "final_norm"  # what of the backbone learns
    side_network: Literal["carry", "anew"] = "carry"  # from task to task, or drawn anew
    imitation_weight: Annotated[float, Field(ge=0)] = 1.0  # of L_mim
    generation_weight: Annotated[float, Field(ge=0)] = 1.0  # of L_gen
    label_weight: Annotated[float, Field(ge=0)] = 0.5  # of CE(y_B, t)
    logit_weight: Annotated[float, Field(ge=0)] = 0.5  # of the side network's opinion
    temperature: Annotated[float, Field(gt=0)] = 2.0  # T, of both opinions
    mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5  # share of the patches that is generated
    projection_rank: Annotated[int, Field(ge=1)] = 32  # of what brings the side network to the trunk's width

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the side network, switched off but while the loss is computed."""
        if not isinstance(petl, LST):
            raise NoLadderError(f"mdpd fades a ladder side network, module lst, and takes no {name_of(petl)}")
        own = {"ln": NormTuning(), "final_norm": NormTuning(scope="final"), "head": Linear()}
        self.backbone, self.petl, self.seeds = backbone, petl, seeds
        self.model = Classifier(backbone, own[self.backbone_train], seeds, self.head_bits)
        self.path: Literal["side", "faded"] | None = None  # the only one left, if one was chosen
        self.side_head = GrowingHead(backbone.width, bits=self.head_bits)
        self.attach_side(0)

    def attach_side(self, task: int) -> None:
        """Attach a new side network, and make what is distilled by."""
        generator = self.seeds.generator("side", task)
        self.side = self.petl.attach(self.backbone, generator)
        self.side.enabled = False
        block = self.backbone.blocks[0]
        self.features = FeatureDistillation(
            block.width,
            self.ladder.side_width,
            rank=self.projection_rank,
            grid=cast("tuple[int, int]", block.grid),
            num_prefix=block.num_prefix,
            generator=generator,
        ).to(self.backbone.device)

    @property
    def ladder(self) -> Ladder:
        """The layers of the side network."""
        return cast("Ladder", self.side.shared[0])

    def parts(self) -> dict[str, nn.Module]:
        """Hold both paths, or the one that is left, and what only learning needs."""
        faded = self.model.parts()
        if self.path == "faded":
            return faded
        side = {"petl side": self.side, "side head": self.side_head}
        if self.path == "side":
            return {"petl": self.model.module, **side}
        return {**faded, **side, "distillation": self.features}

    def begin_task(self, task: Task) -> None:
        """Append to both heads for the new classes; draw the side network again if that is asked for."""
        if task.index and self.side_network == "anew":
            self.side.detach()
            self.attach_side(task.index)
        self.model.grow(task)
        generator = self.seeds.generator("side head", task.index)
        self.side_head.grow(len(task.new_classes), generator, self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the losses of step A and step B, whose parameters are disjoint, added up."""
        side, own, seen = self.both_paths(batch)
        return self.side_loss(side, seen, batch) + self.backbone_loss(own, side, batch)

    def both_paths(self, batch: Batch) -> tuple[Tensor, Tensor, Observed]:
        """Return y_S and y_B of one pass of the trunk, and what stood behind its blocks and beside them."""
        with self.side_shown() as seen:
            side = self.side_head(batch.features(self.backbone))
        return side, self.model.head(seen.features(self.backbone)), seen

    def side_loss(self, side: Tensor, seen: Observed, batch: Batch) -> Tensor:
        """Return what step A minimises: no parameter of the backbone has a part in it."""
        narrow, wide = seen.side[1:], seen.trunk[1:]
        generator = batch.generator("masked patches")
        mask = drawn_mask(len(side), self.features.grid, self.mask_rate, generator).to(side.device)
        return (
            F.cross_entropy(side, batch.labels)
            + self.imitation_weight * self.features.imitation(narrow, wide)
            + self.generation_weight * self.features.generation(narrow, wide, mask)
        )

    def backbone_loss(self, own: Tensor, side: Tensor, batch: Batch) -> Tensor:
        """Return what step B minimises: no parameter of the side network has a part in it."""
        opinion = self.temperature**2 * distillation(own, side, temperature=self.temperature)
        return self.label_weight * F.cross_entropy(own, batch.labels) + self.logit_weight * opinion

    @contextmanager
    def side_shown(self) -> Iterator[Observed]:
        """Let the backbone give the side network's features, and show its own."""
        self.side.enabled = True
        try:
            with self.ladder.observing() as seen:
                yield seen
        finally:
            self.side.enabled = False

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen, of the backbone's own head: the faded path."""
        if self.path == "side":
            return torch.softmax(self.side_head(inputs.features(self.backbone)).float(), dim=1)
        return self.model.probabilities(inputs)

    def become(self, variant: str) -> None:
        """Keep one path: without the side network, or by it alone."""
        self.path = "side" if variant == "side" else "faded"
        del self.features
        if self.path == "side":
            self.side.enabled = True
            return
        self.side.detach()
        del self.side, self.side_head
