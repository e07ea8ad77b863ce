"""Put a head on a backbone that gets prompts chosen image by image: what the prompt methods share.

An image's query is its feature without prompts. It does not change, so that it is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Inputs
from clbench.data.tasks import Task
from clbench.kinds import HasKinds
from clbench.learning.classifier import Classifier
from clbench.petl import Petl
from clbench.petl.parts.prompted import GivenPrefixes, GivenTokens
from clbench.seeds import Seeds

Start = Literal["small", "wide"]  # where prompts and keys are drawn from: U[0, 0.01) or U(-1, 1)


def drawn(start: Start, generator: torch.Generator, *shape: int) -> Tensor:
    """Return the first values of prompts or keys.

    A step of Adam moves each by the learning rate at most: from U(-1, 1) a key needs thousands of steps to
    turn to its queries, from U[0, 0.01) a few.
    """
    low, high = {"small": (0.0, 0.01), "wide": (-1.0, 1.0)}[start]
    return torch.empty(shape).uniform_(low, high, generator=generator)


class Prompts(HasKinds, nn.ParameterList):
    """What is learnt to be put beside an image's tokens, and the keys by which it is chosen."""

    kinds: ClassVar[dict[str, str]] = {"": "modules"}


class PromptedClassifier:
    """A classifier whose backbone is shown each batch twice: without prompts, and with those chosen."""

    def __init__(
        self,
        backbone: Backbone,
        petl: Petl,
        seeds: Seeds,
        head_bits: int,
        *,
        prompts: GivenTokens | GivenPrefixes,
        faithful_query: bool,
    ) -> None:
        """Attach the places for ``prompts``; ``petl`` is trained beside them and not felt by a query.

        ``faithful_query`` computes the query of a training image on the augmented view.
        """
        self.backbone = backbone
        self.classifier = Classifier(backbone, petl, seeds, head_bits)
        self.given, self.places = prompts.given, prompts.attach(backbone, torch.Generator())
        self.places.enabled = False
        self.faithful_query = faithful_query

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module and the head; the prompts are the strategy's."""
        return self.classifier.parts()

    def grow(self, task: Task) -> None:
        """Append a head for the task's new classes."""
        self.classifier.grow(task)

    def query(self, inputs: Inputs) -> Tensor:
        """Return the features (B, D) of the images without prompts, for prediction."""
        module = self.classifier.module
        module.enabled = False
        try:
            with torch.no_grad():
                return inputs.features(self.backbone)
        finally:
            module.enabled = True

    def training_query(self, batch: Batch) -> Tensor:
        """Return the features (B, D) of the images without prompts, in the view that was asked for."""
        return self.query(batch if self.faithful_query else batch.plain())

    def logits(self, inputs: Inputs, prompts: Sequence[Tensor]) -> Tensor:
        """Return the logits (B, classes seen) of images with their prompts, one tensor a place."""
        with self.given.shown(self.places, prompts):
            return self.classifier.logits(inputs)

    def probabilities(self, inputs: Inputs, prompts: Sequence[Tensor]) -> Tensor:
        """Return the softmax over all classes seen, (B, classes seen), float32."""
        return torch.softmax(self.logits(inputs, prompts).float(), dim=1)
