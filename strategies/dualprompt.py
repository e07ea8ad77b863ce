"""Learn a prompt for all tasks and one for each, and find an image's task by the nearest key (DualPrompt).

Z. Wang, Z. Zhang, S. Ebrahimi, R. Sun, H. Zhang, C.-Y. Lee, X. Ren, G. Su, V. Perot, J. Dy, T. Pfister,
"DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022, arXiv 2204.04799. Both
are prefixes, rows in front of the keys and values of attention: the general prompt (G) in the first blocks, a
task's expert prompt (E) in those that follow. A new task's starts as a copy of the one before. In training an
image gets the prompt of its task, at test time that of the key k_t nearest to its query q, the feature
without prompts. With lam the weight of the keys,

    loss = cross-entropy among the task's classes - lam * cos(q, k_t).

The defaults are those of the authors' own code, on CIFAR-100 and on ImageNet-R; ``strategy.recipe=pilot``
takes LAMDA-PILOT's (but not its choice of prompts by batch).

Differs from the paper:
- G in the first 2/12 of the blocks and E in the next 3/12, rounded up: blocks 1-2 and 3-5 of its backbone.
- The query of a training image is computed on its test view, once; ``faithful_query`` augments it.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Heads start from N(0, 0.001^2), the authors' from 0. Crops cover 8 to 100 % of an image; theirs 5 to 100 %
  on ImageNet-R, and on CIFAR-100 they are those of ``--set stream.augment=crop-flip``, by 2 pixels. The class
  order is the natural one, as theirs.
- A module named with the strategy is trained beside the prompts, with nothing against its forgetting.

``selection="batch"`` is the published code's: a batch takes the prompt that most of its images ask for.
Test batches sorted by class then tell an image its task: a leak, which makes accuracies incomparable.

Shape letters: B batch, T tasks begun, D width, L rows of a prefix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.losses.local_cross_entropy import local_cross_entropy
from clbench.learning.prompted_classifier import PromptedClassifier, Prompts, Start, drawn
from clbench.options import LATER
from clbench.petl import Petl
from clbench.petl.parts.prompted import GivenPrefixes
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


@register("dualprompt", petl="linear")
@dataclass
class DualPrompt(Strategy):
    """The general prompt, the task's expert prompt and key, and a head are trained; the rest is frozen."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-imagenet-r": {"epochs": 50, "base_rate": 0.005, "expert_length": 20},
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "pilot": {
            "any": {
                "learning_rate": 0.001,
                "expert_length": 5,
                "key_weight": 0.1,
                "start": "wide",
            },
            "split-imagenet-r": {"epochs": 10},
        }
    }
    needs: ClassVar[tuple[str, ...]] = ("tokens", "boundaries")

    epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 24
    learning_rate: Annotated[float, Field(ge=0)] = 0.0  # 0: base_rate * batch_size / 256
    base_rate: Annotated[float, Field(gt=0), LATER] = 0.03  # learning rate of a batch of 256 images
    general_length: Annotated[int, Field(ge=1)] = 5  # rows of the general prompt in front of keys, and values
    expert_length: Annotated[int, Field(ge=1)] = 5  # rows of a task's prompt in front of keys, and of values
    key_weight: Annotated[float, Field(ge=0)] = 1.0  # lam, of the pull of a task's key towards its queries
    max_gradient: Annotated[float, Field(gt=0)] = 1.0  # norm that the gradient of all parameters is cut to
    start: Annotated[Start, LATER] = "small"  # prompts and keys are drawn from U[0, 0.01); wide: U(-1, 1)
    selection: Literal["sample", "batch"] = "sample"  # batch: by majority; LEAKS the task at test time
    faithful_query: bool = False  # whether the query of a training image is of its augmented view

    def __post_init__(self) -> None:
        """Let the learning rate follow the batch where none is given."""
        self.learning_rate = self.learning_rate or self.base_rate * self.batch_size / 256

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Draw the general prompt; there is no expert prompt before the first task."""
        depth = len(backbone.blocks)
        num_general, self.num_expert = math.ceil(depth * 2 / 12), math.ceil(depth * 3 / 12)
        self.backbone, self.seeds = backbone, seeds
        places = GivenPrefixes(num_general + self.num_expert)
        self.model = PromptedClassifier(
            backbone, petl, seeds, self.head_bits, prompts=places, faithful_query=self.faithful_query
        )
        general = self._drawn("general", 0, num_general, 2, self.general_length, backbone.blocks[0].width)
        self.general = Prompts([general])  # (blocks, 2, L, D): for keys, for values
        self.experts = Prompts()  # of each task (blocks, 2, L, D)
        self.keys = Prompts()  # of each task (D,)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the prompts, the keys and the head."""
        prompts = {"general prompt": self.general, "expert prompts": self.experts, "keys": self.keys}
        return {**self.model.parts(), **prompts}

    def begin_task(self, task: Task) -> None:
        """Freeze the earlier tasks' prompts and keys; add a copy of the last prompt, and a key."""
        self.classes = task.classes
        self.model.grow(task)
        self.experts.requires_grad_(False)
        self.keys.requires_grad_(False)
        if task.index == 0:
            shape = (self.num_expert, 2, self.expert_length, self.backbone.blocks[0].width)
            expert = self._drawn("expert", 0, *shape)
        else:
            expert = self.experts[-1].detach().clone()
        self.experts.append(nn.Parameter(expert))
        self.keys.append(nn.Parameter(self._drawn("key", task.index, self.backbone.width)))

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the task's classes, less the weighted cosines to its key."""
        query = self.model.training_query(batch)
        own_B = torch.full_like(batch.labels, len(self.keys) - 1)
        logits = self.model.logits(batch, self.prompts_of(own_B))
        pull = F.cosine_similarity(query, self.keys[-1][None]).mean()
        return local_cross_entropy(logits, batch.labels, self.classes) - self.key_weight * pull

    def before_update(self, batch: Batch) -> None:
        """Cut the gradient."""
        parameters = [parameter for group in self.trainable() for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.max_gradient)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen, with the prompt of the nearest key."""
        return self.model.probabilities(inputs, self.prompts_of(self.select(self.model.query(inputs))))

    def select(self, query: Tensor) -> Tensor:
        """Return the task (B,) whose key is nearest to each query (B, D)."""
        keys_TD = torch.stack(list(self.keys))
        nearest_B = (F.normalize(query, dim=1) @ F.normalize(keys_TD, dim=1).T).argmax(dim=1)
        if self.selection == "sample":
            return nearest_B
        return nearest_B.bincount().argmax().expand_as(nearest_B)  # depends on the image's batch mates

    def prompts_of(self, task_B: Tensor) -> list[Tensor]:
        """Return the prompts (B, 2, L, D) of each block, the expert ones those of each image's task."""
        general = [each.expand(task_B.shape[0], -1, -1, -1) for each in self.general[0]]
        own = torch.stack(list(self.experts)).index_select(
            0, task_B
        )  # gradients, unlike [...]'s, add in order
        return [*general, *own.unbind(dim=1)]

    def _drawn(self, purpose: str, index: int, *shape: int) -> Tensor:
        """Return first values on the backbone's device."""
        generator = self.seeds.generator(f"{purpose} prompt", index)
        return drawn(self.start, generator, *shape).to(self.backbone.device)
