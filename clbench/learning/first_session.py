"""Adapt a module to the first task with a cosine classifier, and keep it as it is from then on.

What several methods do before they learn in closed form: "first-session adaptation".
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch
from clbench.data.tasks import Task
from clbench.learning.heads import CosineHead
from clbench.petl import Petl
from clbench.seeds import Seeds


class FirstSession:
    """A module on a backbone, and the classifier that it learns with in the first task."""

    def __init__(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module."""
        self.backbone = backbone
        self.seeds = seeds
        self.module = petl.attach(backbone, seeds.generator("petl"))
        self.head: CosineHead | None = None

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and, in the first task, the classifier."""
        return {"petl": self.module, **({} if self.head is None else {"head": self.head})}

    def begin_task(self, task: Task) -> None:
        """Make a classifier for the first task's classes; drop it after that."""
        if task.index > 0:
            self.head = None
            self.freeze()
            return
        generator = self.seeds.generator("head", task.index)
        self.head = CosineHead(self.backbone.width, len(task.new_classes), generator).to(self.backbone.device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over the first task's classes."""
        assert self.head is not None
        return F.cross_entropy(self.head(batch.features(self.backbone)), batch.labels)

    def freeze(self) -> None:
        """Let the module learn no more, so that its features are computed once."""
        self.module.requires_grad_(False)
