"""Learn what repairs a backbone that merges more or fewer tokens than when it was tuned: ToCom's plug-in.

S. Jie, Y. Tang, J. Guo, Z.-H. Deng, K. Han, Y. Wang, "Token Compensator: Altering Inference Cost of Vision
Transformer without Re-Tuning" (ToCom), ECCV 2024, arXiv 2408.06798. Once a backbone, on images alone: each
step draws two degrees a and b of token merging (``--compress tome``), a != b, evenly from 0 to 16. The
teacher is the frozen backbone at a; the student is the same at b with the plug-in's way from a to b beside
its qkv layers (``compress/parts/compensation.py``), and only the plug-in learns:

    L = KL(softmax(teacher) || softmax(student)) / (B C)

over the logits of the classifier that the backbone was pre-trained with, B images and C classes. AdamW with a
cosine from ``learning_rate * batch_size / 512`` to 1e-5, no warm-up.

Recipe ``paper`` takes the authors' numbers; ``small``, ours, fits two cores and an hour, see below.

Differs from the paper:
- Degrees come from a generator named by the step; the authors' differ from process to process and run.
- Published weights mostly come without their classifier. It is taken from the file of the weights where it
  is in there (``backbone.weights=FILE``, or a file beside the data); else the logits are those of a linear
  discriminant of the stream's training images (``parts/readout.py``). Our choice.
- Images are those of a stream, not what the backbone was pre-trained on. Of DeiT's augmentation there are
  random resized crops, flips, mixup and cutmix; not RandAugment, colour jitter and random erasing.
- Everything is computed in float32, on one device.
- ``small``: fewer steps of fewer images with larger rates, the stream's own augmentation, no mixup and no
  drop-path: what a plug-in learns in so few steps is little enough. Our choice.

Of images with few patches high degrees merge all there are, and differ no more: ``highest`` draws from 0 to a
lower degree instead. Steps above it stay what they are at first, none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from clbench.backbones.sites import Switch
from clbench.compress.parts.compensation import HIGHEST, Compensation, new_plugin, to_plugin
from clbench.compress.parts.places import num_tokens_of
from clbench.compress.tome import ToMe
from clbench.data.batches import Batcher, EpochBatches, in_order
from clbench.pretrain import PretrainingMethod, register
from clbench.pretrain.course import Course
from clbench.pretrain.materials import Materials
from clbench.pretrain.parts.agreement import compared, divergence
from clbench.pretrain.parts.drop_path import attach_drop_path
from clbench.pretrain.parts.mixing import mixed
from clbench.pretrain.parts.rates import LEAST_RATE, cosine, for_batch
from clbench.pretrain.parts.readout import readout
from clbench.runs.optimizer_state import optimizer_tensors, restore_optimizer

EXAMINED, AT_ONCE = 256, 64  # test images that are looked at in the end, in batches


@register("tocom")
@dataclass(frozen=True)
class ToCom(PretrainingMethod):
    """Learns a plug-in for ``tome``, beside a frozen Vision Transformer, from images."""

    recipes: ClassVar[dict[str, dict[str, bool | int | float | str]]] = {
        "paper": {
            "epochs": 10,
            "max_steps": 0,
            "batch_size": 1024,
            "learning_rate": 1e-3,
            "augment": "rrc-flip",
            "mixes": True,
            "drop_path": 0.1,
        }
    }

    recipe: Literal["small", "paper"] = "small"  # whose numbers are the defaults of all below
    epochs: Annotated[int, Field(ge=1)] = 10  # over all training images, if max_steps lets them
    max_steps: Annotated[int, Field(ge=0)] = 600  # steps at most; 0: as many as the epochs have
    batch_size: Annotated[int, Field(ge=2)] = 16  # images a step; 1024 in the paper
    learning_rate: Annotated[float, Field(gt=0)] = 0.16  # for 512 images; less in proportion for fewer
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # of AdamW
    rank: Annotated[int, Field(ge=1)] = 2  # hidden units for each step from a degree to the next, rho
    scale: Annotated[float, Field(gt=0)] = 0.1  # s, that the plug-in is learnt with
    highest: Annotated[int, Field(ge=1, le=16)] = 16  # degrees are drawn from 0 to this one
    augment: Literal["stream", "none", "crop-flip", "rrc-flip"] = "stream"  # stream: its own
    mixes: bool = False  # mixup and cutmix, as DeiT
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the student's last block; of others less

    def begin(self, materials: Materials) -> Course:
        """Put a fresh plug-in beside the qkv layers."""
        return Distillation(self, materials)


class Distillation(Course):
    """One backbone, which is student and teacher by turns."""

    def __init__(self, options: ToCom, materials: Materials) -> None:
        """Attach the plug-in, and what drops paths; nothing of the backbone learns."""
        self.options, self.materials, self.backbone = options, materials, materials.backbone
        self.form = ToMe(removed=0).compress(self.backbone)  # which refuses what it cannot compress
        self.classifier = readout(materials)
        self.repairing, self.dropping = Switch(), Switch()
        self.plugin = self._attached()
        augment = materials.batcher.augment if options.augment == "stream" else options.augment
        batcher = materials.batcher
        self.batcher = Batcher(batcher.images, batcher.preprocessing, augment, batcher.device)
        count = len(materials.train)
        self.orders = EpochBatches(count, options.batch_size, materials.seeds, drop_last=True)
        self.steps_an_epoch = len(self.orders.of(0))
        steps = options.epochs * self.steps_an_epoch
        self.num_steps = min(steps, options.max_steps) if options.max_steps else steps
        self.rate = for_batch(options.learning_rate, options.batch_size)
        parameters = [parameter for branch in self.plugin for parameter in branch.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, self.rate, weight_decay=options.weight_decay)

    def step(self, index: int) -> float:
        """Learn from one batch at one pair of degrees."""
        start, end = self.pair(index)
        images = self._images(index)
        with torch.no_grad():
            teacher = self.logits(images, start)
        self.materials.seeds.seed_torch(index)  # dropout and drop-path draw from torch's own generator
        student = self.logits(images, end, repaired_from=start, is_learning=True)
        loss = divergence(teacher, student) / student.numel()
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(self.rate, LEAST_RATE, done=index / self.num_steps)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        self.optimizer.step()
        return float(loss.detach())

    def pair(self, index: int) -> tuple[int, int]:
        """Return the degrees (a, b) of a step; all pairs of two different ones are equally likely."""
        highest = self.options.highest
        generator = self.materials.seeds.generator("degrees", index)
        start, further = divmod(int(torch.randint((highest + 1) * highest, (), generator=generator)), highest)
        return start, (start + 1 + further) % (highest + 1)

    def logits(
        self, images: Tensor, degree: int, *, repaired_from: int | None = None, is_learning: bool = False
    ) -> Tensor:
        """Return the logits (B, C) of the backbone at a degree, without the plug-in or with its way there."""
        self.form.degree = ToMe(removed=degree)
        self.repairing.on, self.dropping.on = repaired_from is not None, is_learning
        for branch in self.plugin:
            branch.train(is_learning)
            branch.pair = (degree if repaired_from is None else repaired_from, degree)
        logits: Tensor = self.classifier(self.backbone(images))
        return logits

    def state(self) -> dict[str, Tensor]:
        """Return the plug-in, and what the optimiser knows of it."""
        return {**self._tensors(), **optimizer_tensors(self.optimizer)}

    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that was returned before."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(state[name])
        restore_optimizer(self.optimizer, state)

    def product(self, about: Mapping[str, str]) -> bytes:
        """Return the plug-in as ``compress.plugin`` takes it."""
        options = self.options
        own = {"rank": options.rank, "scale": options.scale, "highest_degree": options.highest}
        return to_plugin(self.plugin, {**about, **{name: str(value) for name, value in own.items()}})

    def notes(self) -> list[str]:
        """Say whose logits are to agree, and which degrees do the same here."""
        is_own = self.materials.classifier is not None
        whose = "the weights' own classifier" if is_own else "a linear discriminant of the training images"
        num_classes = self.classifier.out_features
        lines = [f"teacher and student are to agree on the logits of {whose}, {num_classes} classes"]
        least = self._least_that_merges_all()
        if least < self.options.highest:
            lines.append(
                f"degrees {least} to {self.options.highest} leave the same tokens at this image size;"
                f" --set pretrain.highest={least} draws none above"
            )
        return lines

    @torch.no_grad()
    def examined(self) -> dict[str, Any]:
        """Compare student with teacher on test images, at the least, the highest and a middle degree.

        ``divergence`` is KL(teacher || student), the mean over images; ``agreement`` the share of images in
        which the same class is first.
        """
        highest, test, seeds = self.options.highest, self.materials.test, self.materials.seeds
        rows = test.draw(EXAMINED, seeds.numpy("examined")).rows
        degrees = sorted({0, (highest + 1) // 2, highest})
        teachers = {degree: self._logits_of(rows, degree) for degree in degrees}
        pairs = []
        for start in degrees:
            for end in degrees:
                if start != end:
                    student = self._logits_of(rows, end, repaired_from=start)
                    plain = compared(teachers[start], teachers[end])
                    repaired = compared(teachers[start], student)
                    pairs.append({"from": start, "to": end, "plain": plain, "repaired": repaired})
        return {"images": len(rows), "pairs": pairs}

    def _attached(self) -> list[Compensation]:
        """Put a fresh plug-in beside the qkv layers, and drop-path around the sub-layers."""
        options, seeds = self.options, self.materials.seeds
        plugin = new_plugin(self.backbone, options.rank, seeds.generator("plugin"))
        for site, branch in plugin:
            branch.scale = options.scale
            site.attached.append((self.repairing, branch.to(self.materials.device)))
        if options.drop_path:
            attach_drop_path(self.backbone, options.drop_path, self.dropping)
        return [branch for _, branch in plugin]

    def _images(self, index: int) -> Tensor:
        """Return the images of a step, (B, 3, S, S), mixed if they are to be."""
        epoch, step = divmod(index, self.steps_an_epoch)
        seeds = self.materials.seeds
        rows = self.materials.train.rows[self.orders.of(epoch)[step]]
        images = self.batcher.training_batch(rows, seeds.generator("augment", index))
        return mixed(images, seeds.derive("mixup", index))[0] if self.options.mixes else images

    def _logits_of(self, rows: NDArray[np.int64], degree: int, *, repaired_from: int | None = None) -> Tensor:
        """Return the logits of test images."""
        parts = (self.batcher.test_batch(rows[places]) for places in in_order(len(rows), AT_ONCE))
        return torch.cat([self.logits(images, degree, repaired_from=repaired_from) for images in parts])

    def _tensors(self) -> dict[str, Tensor]:
        """Return the plug-in's own tensors by names."""
        return {
            f"plugin/{block}.{name}": tensor
            for block, branch in enumerate(self.plugin)
            for name, tensor in branch.state_dict().items()
        }

    def _least_that_merges_all(self) -> int:
        """Return the least degree that leaves behind each block what the highest leaves."""
        num_tokens, num_prefix = num_tokens_of(self.backbone)
        depth = len(self.backbone.blocks)
        counts = [ToMe(removed=r).tokens_after(num_tokens, num_prefix, depth) for r in range(HIGHEST + 1)]
        return counts.index(counts[self.options.highest])
