"""Assemble an image's prompt from weighted components, of which each task adds some (CODA-Prompt).

J. S. Smith, L. Karlinsky, V. Gutta, P. Cascante-Bonilla, D. Kim, A. Arbelle, R. Panda, R. Feris, Z. Kira,
"CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning", CVPR
2023, arXiv 2211.13218. With q an image's feature without prompts, component m of a block has an attention
vector A_m, a key K_m and rows P_m, the first half for the keys of the block's attention, the second for its
values:

    prompt = sum_m cos(q * A_m, K_m) P_m.

Earlier tasks' components stay in the sum and are frozen. A task's own start orthonormal, and orthogonal to
all earlier ones. The loss is the cross-entropy among the task's classes, plus ``orthogonality`` times the
mean of (X X^T - I)^2 summed over A, K and P; the published configuration has a weight of 0.

The defaults are those of the authors' own code on CIFAR-100, ImageNet-R and DomainNet, the schedule included:
the first quarter of a cosine, from epoch to epoch. LAMDA-PILOT's are the same.

Differs from the paper:
- It divides 100 components by the number of tasks; a task adds ``components_per_task``, which for its 10
  tasks is the same and needs no number known in advance.
- Where the width has no room for a task's vectors beside all earlier ones, they are orthonormal among
  themselves only (our choice).
- Prompted are the first 5/12 of the blocks, rounded up, which are the 5 of its backbone.
- The query of a training image is computed on its test view, once; ``faithful_query`` augments it.
- A tenth of the training images is held out for tuning: ``--set stream.validation_rate=0`` trains on all.
- Heads start from N(0, 0.001^2), the authors' as torch draws a linear layer. They shuffle the classes by
  their seed (here ``--set stream.order=random``) and test on whole images of 224 pixels, not on crops.
  Training crops cover 8 to 100 % of an image, as theirs.
- A module named with the strategy is trained beside the prompts, with nothing against its forgetting.

Shape letters: B batch, P prompted blocks, M components, D width, L rows of a component.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.learning.losses.local_cross_entropy import local_cross_entropy
from clbench.learning.prompted_classifier import PromptedClassifier, Prompts
from clbench.petl import Petl
from clbench.petl.parts.initialise import first_blocks
from clbench.petl.parts.prompted import GivenPrefixes
from clbench.seeds import Seeds
from clbench.strategies import Schedule, Strategy, Task, register


@register("coda-prompt", petl="linear")
@dataclass
class CodaPrompt(Strategy):
    """The task's components and a head are trained; earlier components and the backbone are frozen."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "split-imagenet-r": {"epochs": 50},
        "domainnet": {"epochs": 5},
    }
    needs: ClassVar[tuple[str, ...]] = ("tokens", "boundaries")

    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    schedule: Schedule = "quarter-cosine"
    components_per_task: Annotated[int, Field(ge=1)] = 10  # of each prompted block
    rows: Annotated[int, Field(ge=1)] = 4  # of a component, in front of the keys, and as many of the values
    orthogonality: Annotated[float, Field(ge=0)] = 0.0  # weight of the penalty on components that overlap
    faithful_query: bool = False  # whether the query of a training image is of its augmented view

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Start without components."""
        self.backbone, self.seeds = backbone, seeds
        self.num_blocks = len(first_blocks(backbone, 0))
        places = GivenPrefixes(self.num_blocks)
        self.model = PromptedClassifier(
            backbone, petl, seeds, self.head_bits, prompts=places, faithful_query=self.faithful_query
        )
        self.attention = Prompts()  # A of each task (P, M, D)
        self.keys = Prompts()  # K of each task (P, M, D)
        self.prompts = Prompts()  # P of each task (P, M, 2 L D)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the components and the head."""
        components = {"attention": self.attention, "keys": self.keys, "prompts": self.prompts}
        return {**self.model.parts(), **components}

    def begin_task(self, task: Task) -> None:
        """Freeze the components and add new ones, as tensors of their own: no optimiser moves old ones."""
        self.classes = task.classes
        self.model.grow(task)
        generator, device = self.seeds.generator("components", task.index), self.backbone.device
        query, prompt = self.backbone.width, 2 * self.rows * self.backbone.blocks[0].width
        for earlier, width in ((self.attention, query), (self.keys, query), (self.prompts, prompt)):
            earlier.requires_grad_(False)
            drawn = torch.randn(self.num_blocks, self.components_per_task, width, generator=generator)
            new = orthonormal_beside(list(earlier), drawn.to(device))
            earlier.append(nn.Parameter(new))

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy among the task's classes, plus the weighted penalty on overlaps."""
        logits = self.model.logits(batch, self.prompts_of(self.model.training_query(batch)))
        loss = local_cross_entropy(logits, batch.labels, self.classes)
        if self.orthogonality:
            loss = loss + self.orthogonality * sum(overlap(each) for each in self.all_components())
        return loss

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs, self.prompts_of(self.model.query(inputs)))

    def all_components(self) -> list[Tensor]:
        """Return A and K (P, M, D) and P (P, M, 2 L D) of all tasks."""
        return [torch.cat(list(tasks), dim=1) for tasks in (self.attention, self.keys, self.prompts)]

    def prompts_of(self, query: Tensor) -> list[Tensor]:
        """Return the prompts (B, 2, L, D) of each block for images with these queries (B, D)."""
        attention_PMD, keys_PMD, prompts = self.all_components()
        # cos(q * A_m, K_m) without a tensor of B * M * D: both of its sums are over products with q
        dots = torch.einsum("bd,pmd->bpm", query, attention_PMD * F.normalize(keys_PMD, dim=-1))
        squares = torch.einsum("bd,pmd->bpm", query.square(), attention_PMD.square())
        weights_BPM = dots * squares.clamp_min(1e-24).rsqrt()
        assembled = torch.einsum("bpm,pmr->pbr", weights_BPM, prompts)
        return [each.reshape(query.shape[0], 2, self.rows, -1) for each in assembled]


@torch.no_grad()
def orthonormal_beside(earlier: list[Tensor], drawn: Tensor) -> Tensor:
    """Return what Gram and Schmidt make of vectors (P, M, D) drawn after the ``earlier`` ones, alike."""
    beside = drawn.mT
    if earlier and sum(each.shape[1] for each in [*earlier, drawn]) <= drawn.shape[2]:
        basis = torch.linalg.qr(torch.cat(earlier, dim=1).mT).Q
        for _ in range(2):  # once more, for what rounding left
            beside = beside - basis @ (basis.mT @ beside)
    orthonormal: Tensor = torch.linalg.qr(beside).Q.mT[:, : drawn.shape[1]]
    return orthonormal.contiguous()


def overlap(vectors_PMD: Tensor) -> Tensor:
    """Return the mean of (X X^T - I)^2 over a block's vectors, summed over the blocks."""
    gram = vectors_PMD @ vectors_PMD.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().mean(dim=(1, 2)).sum()
