"""Train on the data of all tasks at once: the upper bound that continual learners are measured against.

By default the training happens once, when the last task has arrived, and the accuracies before that are
unknown. With ``when="every"`` a fresh model is trained on everything so far after each task, which also gives
the reference for intransigence (A. Chaudhry et al., ECCV 2018, arXiv 1801.10112) at the price of (T + 1) / 2
times the compute.

With ``quality_retaining`` and the module ``moe-lora`` this is a multi-task learner, EMTAL (H. Zhong et al.,
NeurIPS 2024, arXiv 2501.06884): a task whose loss is low is held near the logits that its classes had, the
router fades, and what is left merges into a plain network. A class belongs to the task that brings it.

Differs from the paper:
- Its code smooths the labels by 0.1 and warms the learning rate up; here neither is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.data.samples import Samples, join
from clbench.learning.classifier import Classifier
from clbench.learning.losses.quality_retaining import QualityRetaining
from clbench.options import LATER
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("joint", petl="adapter", bound="joint")
@dataclass
class Joint(Strategy):
    """Cross-entropy over all classes, on all data so far, from the pre-trained backbone each time."""

    gives_probabilities: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("many-passes",)
    revisits: ClassVar[bool] = True

    when: Literal["last", "every"] = "last"  # train after the last task only, or after every task
    quality_retaining: Annotated[Literal["off", "two_sample", "ema"], LATER] = (
        "off"  # hold a class near its earlier logits: the last two, or their moving average
    )

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module, and start with a head without classes."""
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        form = self.quality_retaining
        self.retaining = None if form == "off" else QualityRetaining(form).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head and, if there is one, the bank of Quality Retaining."""
        retaining = {} if self.retaining is None else {"quality retaining": self.retaining}
        return {**self.model.parts(), **retaining}

    def training_samples(self, seen: Sequence[Task], num_tasks: int) -> Samples | None:
        """Return all data so far, or None while waiting for the last task."""
        if self.when == "last" and len(seen) < num_tasks:
            return None
        return join([task.train for task in seen])

    def begin_task(self, task: Task) -> None:
        """Start again from the pre-trained backbone, with a head for all classes so far."""
        self.model.start_again(task)
        if self.retaining:
            self.retaining.grow(len(task.new_classes), task=task.index)
            self.retaining.forget()

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes, plus Quality Retaining where it is on."""
        logits = self.model.logits(batch)
        loss = F.cross_entropy(logits, batch.labels)
        if self.retaining:
            self.logits = logits.detach()  # for what follows up on this step
            loss = loss + self.retaining.loss(logits, batch.labels)
        return loss

    def after_step(self, batch: Batch) -> None:
        """Remember what was said of the batch."""
        if self.retaining:
            self.retaining.update(self.logits, batch.labels)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes."""
        return self.model.probabilities(inputs)
