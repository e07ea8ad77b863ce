"""Learn a network, or a part of it, from labels by a recipe: one step after another.

Shape letters: B batch, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.sites import Switch
from clbench.data.batches import Batcher, EpochBatches
from clbench.data.transforms import random_resized_boxes
from clbench.evaluate.flops import count_flops
from clbench.pretrain.materials import Materials
from clbench.pretrain.parts.accounts import Spent, measuring
from clbench.pretrain.parts.augmentation import augmented, augmenter, erased
from clbench.pretrain.parts.drop_path import attach_drop_path
from clbench.pretrain.parts.mixing import mixed
from clbench.pretrain.parts.network import Network
from clbench.pretrain.parts.rates import for_batch, warmed
from clbench.pretrain.parts.teacher import opinions
from clbench.pretrain.supervised import Supervised
from clbench.runs.checkpoint import under
from clbench.runs.optimizer_state import optimizer_tensors, restore_optimizer
from clbench.seeds import Seeds

OPINIONS = "opinions"  # of a teacher, by which name they are kept


@dataclass(frozen=True)
class Stage:
    """What one training differs in from others by the same recipe."""

    name: str  # everything that is drawn at random is named by it
    epochs: int
    warm_up: float  # epochs
    drop_path: float  # of the last block


class Training:
    """One network that learns: ``step`` after ``step``, each named by its number."""

    def __init__(
        self,
        network: Network,
        stage: Stage,
        recipe: Supervised,
        materials: Materials,
        *,
        decays_all: bool = False,
    ) -> None:
        """Begin with what ``network.let_learn`` let learn; ``decays_all``: also positions and class token."""
        self.network, self.stage, self.recipe, self.materials = network, stage, recipe, materials
        self.seeds = Seeds(materials.seeds.derive(stage.name))
        self.batches = Batches(recipe, materials, self.seeds)
        self.an_epoch = self.batches.an_epoch
        self.num_steps = stage.epochs * self.an_epoch
        self.rate = for_batch(recipe.learning_rate, recipe.batch_size)
        fused = materials.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            network.groups(recipe.weight_decay, decays_all=decays_all), self.rate, fused=fused
        )
        self.dropping = Switch()
        self.dropping.on = False
        if stage.drop_path:
            attach_drop_path(network.backbone, stage.drop_path, self.dropping)
        self.spent = Spent()
        self.num_done = 0

    def step(self) -> float:
        """Learn from the next batch and return its loss."""
        begun = time.perf_counter()
        self.spent.flops_once += self.batches.ask_teacher()
        with measuring(self.spent, self.network, self.materials.device):
            loss = self._step(self.num_done)
        self.num_done += 1
        self.spent.seconds += time.perf_counter() - begun
        self.spent.steps = self.num_done
        return loss

    def _step(self, index: int) -> float:
        images, targets = self.batches.batch(index)
        self.seeds.seed_torch(index)  # drop-path draws from torch's own generator
        self.network.set_training(True)
        self.dropping.on = True
        self.optimizer.zero_grad()
        total = 0.0
        for some, wanted in zip(
            *(each.chunk(self.recipe.accumulate) for each in (images, targets)), strict=True
        ):
            loss = soft_cross_entropy(self.network(some), wanted) * (len(some) / len(images))
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            total += float(loss.detach())
        self.dropping.on = False
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.network.learning.values(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_of(index)
        self.optimizer.step()
        return total

    def rate_of(self, index: int) -> float:
        """Return the learning rate of a step."""
        warm_up = min(round(self.stage.warm_up * self.an_epoch), self.num_steps // 2)
        return warmed(self.rate, step=index, num_steps=self.num_steps, warm_up=warm_up)

    def learnt(self) -> dict[str, Tensor]:
        """Return what has changed: what learns, and the batch norms' means and variances, by names."""
        own = self.network.tensors()
        layers = {name.rpartition(".")[0] for name in self.network.learning}
        return {name: each for name, each in own.items() if name.rpartition(".")[0] in layers}

    def state(self) -> dict[str, Tensor]:
        """Return everything that the steps have changed."""
        values = {f"learnt/{name}": each for name, each in self.learnt().items()}
        return {
            **values,
            **self.materials.told,
            **optimizer_tensors(self.optimizer),
            "spent": self.spent.to_tensor(),
        }

    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that was returned before."""
        self.network.take(under("learnt/", state))
        restore_optimizer(self.optimizer, state)
        self.spent = Spent.from_tensor(state["spent"])
        if OPINIONS in state:
            self.materials.told[OPINIONS] = state[OPINIONS]
        self.num_done = self.spent.steps


class Batches:
    """The images and targets of each step."""

    def __init__(self, recipe: Supervised, materials: Materials, seeds: Seeds) -> None:
        """Take the training images of a stream."""
        self.recipe, self.materials, self.seeds = recipe, materials, seeds
        own = materials.batcher
        augment = own.augment if recipe.augment == "stream" else recipe.augment
        self.batcher = Batcher(own.images, own.preprocessing, augment, own.device)
        if augment.startswith("rrc"):
            flip_rate = 0.5 if augment.endswith("flip") else 0.0
            scale = (recipe.least_area, 1.0)
            self.batcher.draw_boxes = partial(random_resized_boxes, scale=scale, flip_rate=flip_rate)
        name = recipe.auto_augment
        self.transform = augmenter(name, own.preprocessing) if name else None
        self.an_epoch = steps_an_epoch(recipe, materials)
        count = len(materials.train)
        self.orders = EpochBatches(count, count, seeds, drop_last=False)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, S, S) of a step, and how much of each class they are to be, (B, C)."""
        recipe, derive = self.recipe, self.seeds.derive
        places = self.drawn(index)
        some = self.materials.train.select(places)
        images = self.batcher.training_batch(some.rows, self.seeds.generator("augment", index))
        if self.transform is not None:
            images = augmented(
                images, self.transform, self.batcher.preprocessing, derive("auto augment", index)
            )
        if recipe.erasing:
            images = erased(images, recipe.erasing, derive("erasing", index))
        targets = self.targets(places).to(images.device)
        if not recipe.mixup and not recipe.cutmix:
            return images, targets
        images, shares = mixed(images, derive("mixup", index), mixup=recipe.mixup, cutmix=recipe.cutmix)
        return images, shares @ targets[: len(images)]

    def ask_teacher(self) -> int:
        """Ask the teacher about all images, if there is one and it was not asked; return the FLOPs."""
        recipe, told = self.recipe, self.materials.told
        if not recipe.teacher or OPINIONS in told:
            return 0

        def ask() -> None:
            told[OPINIONS] = opinions(recipe.teacher, recipe.teacher_size, self.materials)

        return count_flops(ask)

    def targets(self, places: NDArray[np.int64]) -> Tensor:
        """Return how much of each class the images at these places of all are to be, (B, C)."""
        materials = self.materials
        labels = torch.from_numpy(materials.train.labels[places])
        num_classes = materials.num_classes + materials.num_extra
        targets = smoothed(labels, num_classes, self.recipe.label_smoothing)
        if not self.recipe.teacher:
            return targets
        told = materials.told[OPINIONS][torch.from_numpy(places)]
        share = self.recipe.teacher_share * told.sum(dim=1, keepdim=True)  # it knows nothing of extra classes
        return (1 - share) * targets + self.recipe.teacher_share * told

    def drawn(self, index: int) -> NDArray[np.int64]:
        """Return the places of a step's images, each ``repeats`` times: an epoch sees that share of all."""
        epoch, step = divmod(index, self.an_epoch)
        size, repeats = self.recipe.batch_size, self.recipe.repeats
        (order,) = self.orders.of(epoch)
        places = order[: math.ceil(len(order) / repeats)].repeat(repeats)
        return places[step * size : (step + 1) * size]


def steps_an_epoch(recipe: Supervised, materials: Materials) -> int:
    """Return how many whole batches the training images are, one at least."""
    return max(1, len(materials.train) // recipe.batch_size)


def smoothed(labels: Tensor, num_classes: int, share: float) -> Tensor:
    """Return targets (B, C) for labels (B,): ``share`` of each label is spread over all classes."""
    return F.one_hot(labels, num_classes).float() * (1 - share) + share / num_classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over the batch of the cross-entropy of logits (B, C) with targets (B, C)."""
    return -(targets * logits.float().log_softmax(dim=1)).sum(dim=1).mean()
