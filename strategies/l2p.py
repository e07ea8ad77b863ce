"""Learn a pool of prompts, from which each image takes those whose keys are nearest (L2P).

Z. Wang, Z. Zhang, C.-Y. Lee, H. Zhang, R. Sun, X. Ren, G. Su, V. Perot, J. Dy, T. Pfister, "Learning to
Prompt for Continual Learning", CVPR 2022, arXiv 2112.08654. An image's query q is its feature without
prompts. The N of M prompts with the largest cos(q, k_m) are inserted after the class token; the feature is
the mean of what becomes of their tokens. With lam the weight of the keys,

    loss = cross-entropy among the task's classes - lam * sum of cos(q, k_m) over the prompts taken.

The defaults are those of the authors' own code, on CIFAR-100, CORe50 and 5-datasets: there a pool of 10
prompts of 10 tokens, of which an image takes 4, and lam = 1. The paper has prompts of 5 tokens, of which an
image takes 5, on CIFAR-100, as ``strategy.recipe=pilot`` does, which takes LAMDA-PILOT's numbers (but not its
choice by batch). For ImageNet-R the authors' code gives none.

Differs from the paper:
- The query of a training image is computed on its test view, once; ``faithful_query`` augments it.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Heads start from N(0, 0.001^2), the authors' from 0. Crops cover 8 to 100 % of an image; the authors' on
  CIFAR-100 are those of ``--set stream.augment=crop-flip``, by 2 pixels. The class order is the natural one,
  as theirs.
- On CORe50 the authors train the whole network by SGD; here it is frozen there, too.
- Where a stream tells no boundaries, the classes that may occur in the next segment are compared.
- A module named with the strategy is trained beside the prompts, with nothing against its forgetting.

``selection="batch"`` is the published code's: a batch takes the prompts that most of its images ask for.
Test batches sorted by class then tell an image its task: a leak, which makes accuracies incomparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.errors import UserError
from clbench.learning.losses.local_cross_entropy import local_cross_entropy
from clbench.learning.prompted_classifier import PromptedClassifier, Prompts, Start, drawn
from clbench.options import LATER
from clbench.petl import Petl
from clbench.petl.parts.prompted import GivenTokens
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task, register


class PoolError(UserError, ValueError):
    """More prompts are to be taken than there are."""


@register("l2p", petl="linear")
@dataclass
class L2P(Strategy):
    """A pool of prompts and keys, and a head, are trained; the backbone is frozen."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "5-datasets": {"pool_size": 20, "key_weight": 0.5},
        "core50": {"prompt_length": 5},
    }
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "pilot": {
            "any": {
                "learning_rate": 0.001875,
                "pool_size": 10,
                "prompt_length": 5,
                "top_k": 5,
                "key_weight": 0.1,
                "start": "wide",
            },
            "split-imagenet-r": {"epochs": 10, "batch_size": 32},
        }
    }
    needs: ClassVar[tuple[str, ...]] = ("tokens",)

    epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(ge=0)] = 0.0  # 0: base_rate * batch_size / 256
    base_rate: Annotated[float, Field(gt=0), LATER] = 0.03  # learning rate of a batch of 256 images
    pool_size: Annotated[int, Field(ge=1)] = 10  # prompts in the pool, M
    prompt_length: Annotated[int, Field(ge=1)] = 10  # tokens a prompt
    top_k: Annotated[int, Field(ge=1)] = 4  # prompts that an image takes, N
    key_weight: Annotated[float, Field(ge=0)] = 1.0  # lam, of the pull of keys towards queries
    max_gradient: Annotated[float, Field(gt=0)] = 1.0  # norm that the gradient of all parameters is cut to
    start: Annotated[Start, LATER] = "small"  # prompts and keys are drawn from U[0, 0.01); wide: U(-1, 1)
    selection: Literal["sample", "batch"] = "sample"  # batch: by majority; LEAKS the task at test time
    faithful_query: bool = False  # whether the query of a training image is of its augmented view

    def __post_init__(self) -> None:
        """Let the learning rate follow the batch where none is given."""
        self.learning_rate = self.learning_rate or self.base_rate * self.batch_size / 256

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Draw the pool."""
        if self.top_k > self.pool_size:
            raise PoolError(f"strategy.top_k: {self.top_k}, but strategy.pool_size is {self.pool_size}")
        places = GivenTokens(length=self.top_k * self.prompt_length)
        self.model = PromptedClassifier(
            backbone, petl, seeds, self.head_bits, prompts=places, faithful_query=self.faithful_query
        )
        generator, width = seeds.generator("prompts"), backbone.blocks[0].width
        prompts = drawn(self.start, generator, self.pool_size, self.prompt_length, width)
        keys = drawn(self.start, generator, self.pool_size, backbone.width)
        self.prompts = Prompts([prompts]).to(backbone.device)  # (M, length, D)
        self.keys = Prompts([keys]).to(backbone.device)  # (M, D)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the pool and the head."""
        return {**self.model.parts(), "prompts": self.prompts, "keys": self.keys}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.classes = task.classes
        self.model.grow(task)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the task's classes, less the weighted cosines to the keys taken."""
        cosines_BM = self.cosines(self.model.training_query(batch))
        taken_BN = self.select(cosines_BM)
        logits = self.model.logits(batch, [self.prompts_of(taken_BN)])
        pull = cosines_BM.gather(1, taken_BN).sum(dim=1).mean()
        return local_cross_entropy(logits, batch.labels, self.classes) - self.key_weight * pull

    def before_update(self, batch: Batch) -> None:
        """Cut the gradient."""
        parameters = [parameter for group in self.trainable() for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.max_gradient)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        taken_BN = self.select(self.cosines(self.model.query(inputs)))
        return self.model.probabilities(inputs, [self.prompts_of(taken_BN)])

    def cosines(self, query: Tensor) -> Tensor:
        """Return the cosines (B, M) of queries (B, D) to all keys."""
        return F.normalize(query, dim=1) @ F.normalize(self.keys[0], dim=1).T

    def select(self, cosines_BM: Tensor) -> Tensor:
        """Return the indices (B, N) of the prompts that each image takes."""
        nearest_BN = cosines_BM.topk(self.top_k, dim=1).indices
        if self.selection == "sample":
            return nearest_BN
        votes_M = nearest_BN.flatten().bincount(minlength=self.pool_size)
        return votes_M.topk(self.top_k).indices.expand_as(nearest_BN)  # depends on the image's batch mates

    def prompts_of(self, taken_BN: Tensor) -> Tensor:
        """Return the tokens (B, N * length, D) of the prompts taken."""
        prompts: Tensor = self.prompts[0]
        taken = prompts.index_select(0, taken_BN.flatten())  # its gradient, unlike [...]'s, is added in order
        return taken.view(taken_BN.shape[0], -1, prompts.shape[-1])
