"""Learn a whole backbone from labelled images, all of it at once.

Cross-entropy by the recipe of all supervised methods (``clbench/pretrain/supervised.py``): AdamW with a
warm-up and a cosine, label smoothing, mixup and cutmix, random erasing, stochastic depth, clipped gradients.
Begins with random weights; ``--set backbone.weights=FILE`` goes on from others.

``recipe=deit`` takes DeiT's numbers (H. Touvron et al., ICML 2021, arXiv 2012.12877) as the authors of Deep
Incubation use them (Z. Ni et al., ICCV 2023, arXiv 2212.04129): 300 epochs, 2,048 images a step. ``small``,
ours, fits two cores and small images.

Differs from the paper:
- Images come from a stream, at its size, in float32.
- Repeated augmentation puts the copies of an image next to each other in a batch on one device; the authors'
  put them on different ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clbench.pretrain import register
from clbench.pretrain.course import Course
from clbench.pretrain.materials import Materials
from clbench.pretrain.parts.glyphs import with_glyphs
from clbench.pretrain.parts.network import Network
from clbench.pretrain.parts.training import Stage, Training
from clbench.pretrain.supervised import DEIT, Supervised


@register("end-to-end")
@dataclass(frozen=True)
class EndToEnd(Supervised):
    """Trains every weight of a backbone, from random ones on, on the labels of a stream."""

    recipes: ClassVar[dict[str, dict[str, bool | int | float | str]]] = {"deit": {**DEIT, "epochs": 300}}

    def begin(self, materials: Materials) -> Course:
        """Put a classifier on the backbone, and let all of it learn."""
        return WholeTraining(self, with_glyphs(materials, self.glyphs))


class WholeTraining(Course):
    """One training of one network."""

    def __init__(self, options: EndToEnd, materials: Materials) -> None:
        """Begin it."""
        self.options, self.materials = options, materials
        seed = materials.seeds.derive("classifier")
        self.network = Network(materials.backbone, materials.num_classes, seed, num_extra=materials.num_extra)
        self.network.let_learn(self.network.named())
        stage = Stage("whole", options.epochs, options.warm_up, options.drop_path)
        self.training = Training(self.network, stage, options, materials)
        self.num_steps = self.training.num_steps

    def step(self, index: int) -> float:
        """Learn from one batch."""
        return self.training.step()

    def state(self) -> dict[str, Tensor]:
        """Return the network, and what the optimiser knows of it."""
        return self.training.state()

    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that was returned before."""
        self.training.take_back(state)

    def product(self, about: Mapping[str, str]) -> bytes:
        """Return the weights with their classifier, named as timm names them."""
        return self.network.to_file(about, self.options.stored)

    def notes(self) -> list[str]:
        """Say what it begins with, and what takes long before the first step."""
        return self.options.told_first(self.materials)

    def examined(self) -> dict[str, Any]:
        """Return the accuracy on held-out images, and what it took."""
        return {
            **self.materials.held_out(self.network.accuracy),
            "stages": {"whole": self.training.spent.to_dict()},
        }
