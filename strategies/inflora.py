"""Learn each task in a low-rank subspace in which the inputs of earlier tasks have no part (InfLoRA).

Y.-S. Liang, W.-J. Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024,
arXiv 2404.00228. The key and value projections W of every block become W + S + A_t B_t. Before task t,
B_t gets the main directions of the task's inputs beside the old ones and is fixed; only A_t, from 0, and the
head are trained, with the cross-entropy among the task's classes. After it the block's inputs are looked at
again, and as many of their main directions become old that those hold the share

    kept + kept_growth * t,   t = 0, 1, ...,

of the inputs' energy; then S <- S + A_t B_t. The old directions stand for the gradients of old tasks, which
lie among their inputs (DualGPM; Y.-S. Liang, W.-J. Li, "Adaptive Plasticity Improvement for Continual
Learning", CVPR 2023).

The defaults are those of the authors' own code on CIFAR-100 and ImageNet-R, the schedule included: the first
quarter of a cosine, from epoch to epoch.

Differs from the paper:
- DualGPM keeps the smaller of two complementary bases. Here is the projection that both of them give.
- Directions and energies are those of H H^T, of which the published code takes the singular values, not of
  the inputs H themselves: the same share then needs far fewer directions.
- The share grows by 0.005 a task, which for 10 tasks is the published code's way to 1, and needs no number of
  tasks. 0.95 is its value for CIFAR-100; for ImageNet-R it is 0.98.
- Inputs are those of the training images in the test transform.
- B is shared by keys and values, for the published two are equal: 3 R D numbers a block, not 4 R D.
- After the first task the published code keeps one direction less than the criterion above asks for (the last
  one whose sum is still below the share, but at least one); here the criterion holds in every task.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Heads start from N(0, 0.001^2), the authors' as torch draws a linear layer. Crops (8 to 100 % of an image)
  and the natural class order are theirs.
- A module named with the strategy is trained beside the updates, with nothing against its forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.learning.classifier import Classifier
from clbench.learning.losses.local_cross_entropy import local_cross_entropy
from clbench.petl import Petl
from clbench.petl.parts.subspace import SubspaceUpdate, SubspaceUpdates, input_moments
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register


@register("inflora", petl="linear")
@dataclass
class InfLoRA(Strategy):
    """One low-rank update a task, which old inputs do not feel, added to what was learnt before."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-imagenet-r": {"epochs": 50, "kept": 0.98, "kept_growth": 0.002}
    }
    needs: ClassVar[tuple[str, ...]] = ("tokens", "boundaries")
    rereads: ClassVar[str] = "the directions of the inputs, before they are learnt and after"

    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 0.0005
    schedule: Schedule = "quarter-cosine"
    rank: Annotated[int, Field(ge=1)] = 10  # of a task's update, R
    kept: Annotated[float, Field(ge=0, le=1)] = 0.95  # share of the first task's energy that becomes old
    kept_growth: Annotated[float, Field(ge=0)] = 0.005  # added to that share with each task, up to 1

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach an update to every block."""
        self.backbone = backbone
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.attached = SubspaceUpdates(self.rank).attach(backbone, seeds.generator("inflora"))
        self.updates = [cast("SubspaceUpdate", branch) for branch in self.attached.branches]

    def parts(self) -> dict[str, nn.Module]:
        """Hold the updates, with the projections onto old inputs, and the head."""
        return {**self.model.parts(), "updates": self.attached}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.classes = task.classes
        self.model.grow(task)

    def before_training(self, task: Task, images: Feed) -> None:
        """Choose B from the task's inputs."""
        for update, moment in zip(self.updates, input_moments(self.backbone, images), strict=True):
            update.aim(moment)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the task's classes."""
        return local_cross_entropy(self.model.logits(batch), batch.labels, self.classes)

    def end_task(self, task: Task, images: Feed) -> None:
        """Count the task's inputs among the old ones, and add what was learnt to S."""
        share = min(1.0, self.kept + self.kept_growth * task.index)
        for update, moment in zip(self.updates, input_moments(self.backbone, images), strict=True):
            update.protect(moment, share)
            update.fold()

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)
