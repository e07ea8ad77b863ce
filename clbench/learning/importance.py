"""Pull parameters back to where they were, each by its importance: what EWC, SI and MAS share.

    cross-entropy + strength * sum_i importance_i (parameter_i - anchor_i)^2

All parameters that are learnt are seen as one vector (P,), in the order in which they were added.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, Feed, Inputs
from clbench.kinds import HasKinds
from clbench.learning.classifier import Classifier
from clbench.learning.replay import FROM_SCRATCH
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task


class Importance(HasKinds):
    """Where the parameters were, how important each is, and its share in the fall of the loss."""

    kinds: ClassVar[dict[str, str]] = {"": "importance"}

    anchor: Tensor
    importance: Tensor
    path: Tensor  # of SI alone: what the steps of a task contributed

    def __init__(self, *, keeps_path: bool) -> None:
        """Start without parameters."""
        super().__init__()
        for name in ("anchor", "importance", "path") if keeps_path else ("anchor", "importance"):
            self.register_buffer(name, torch.zeros(0))

    def grow(self, parameters: Tensor) -> None:
        """Make room for the parameters that are new, anchored where they are, of no importance."""
        new = parameters[len(self.anchor) :]
        for name, buffer in list(self.named_buffers()):
            values = new if name == "anchor" else torch.zeros_like(new)
            self.register_buffer(name, torch.cat([buffer.to(new), values]))

    def penalty(self, parameters: Tensor) -> Tensor:
        """Return sum_i importance_i (parameter_i - anchor_i)^2."""
        return (self.importance * (parameters - self.anchor).square()).sum()


@dataclass
class Anchored(Strategy):
    """Cross-entropy over all classes seen so far, on the current data, and the pull; a subclass weighs it."""

    gives_probabilities: ClassVar[bool] = True
    recipes: ClassVar[dict[str, dict[str, Any]]] = {"online+full": FROM_SCRATCH}
    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    keeps_path: ClassVar[bool] = False  # whether each step's contribution is summed up

    strength: Annotated[float, Field(ge=0)] = 1.0  # weight of the pull

    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module and start with a head without classes; nothing is important yet."""
        self.seeds = seeds
        self.model = Classifier(backbone, petl, seeds, self.head_bits)
        self.held = Importance(keeps_path=self.keeps_path).to(backbone.device)

    def parts(self) -> dict[str, nn.Module]:
        """Hold the module, the head, and two numbers or more for each of their parameters."""
        return {**self.model.parts(), "importance": self.held}

    def begin_task(self, task: Task) -> None:
        """Append a head for the new classes."""
        self.model.grow(task)
        self.held.grow(flat(self.learning()).detach())
        self.is_first_task = task.index == 0

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy and, from the second task on, the pull."""
        loss = self.cross_entropy(batch)
        if self.is_first_task:
            return loss
        return loss + self.strength * self.held.penalty(flat(self.learning()))

    def cross_entropy(self, batch: Batch) -> Tensor:
        """Return the cross-entropy over all classes seen."""
        return F.cross_entropy(self.model.logits(batch), batch.labels)

    @abstractmethod
    def end_task(self, task: Task, images: Feed) -> None:
        """Set the importances and the anchor."""

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the softmax over all classes seen."""
        return self.model.probabilities(inputs)

    def learning(self) -> list[nn.Parameter]:
        """Return the parameters that are learnt."""
        return [parameter for group in self.trainable() for parameter in group["params"]]

    def some_of(self, images: Feed, count: int, task: Task) -> NDArray[np.int64]:
        """Draw the places of so many of a task's images; 0: all."""
        generator = self.seeds.generator("importance", task.index)
        return torch.randperm(len(images), generator=generator)[: count or None].numpy()


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return all entries as one vector (P,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def mean_by_image(
    of_gradient: Callable[[Tensor], Tensor],
    scalar: Callable[[Batch], Tensor],
    parameters: Sequence[nn.Parameter],
    images: Feed,
    places: NDArray[np.int64],
) -> Tensor:
    """Return the mean over images of a function of the gradient (P,) that one image alone gives.

    Args:
        of_gradient: The function, such as ``torch.square``.
        scalar: What is differentiated, of a batch of one image.
        parameters: With respect to which.
        images: The images of a task.
        places: Which of them to take.
    """
    total = torch.zeros_like(flat(parameters))
    for place in places[:, None]:
        value = scalar(images.at(place))
        gradient = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        total += of_gradient(flat(gradient))
    return total / len(places)
