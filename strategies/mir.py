"""Replay those images whose loss the new ones would raise the most: maximally interfered retrieval (ER-MIR).

R. Aljundi, L. Caccia, E. Belilovsky, M. Caccia, M. Lin, L. Charlin, T. Tuytelaars, "Online Continual Learning
with Maximally Interfered Retrieval", NeurIPS 2019, arXiv 1908.04742. Of some candidates drawn from the memory
those are replayed for which

    loss(image; w - learning rate * gradient of the new images' loss) - loss(image; w)

is largest. Costs a second forward and backward of the new images and two forwards of the candidates a step.

Differs from the paper: the candidates are looked at in the test transform (our choice); the virtual step
leaves no trace in batch-norm statistics either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.data.inputs import Batch
from clbench.data.stored import Stored
from clbench.learning.replay import Replay
from clbench.strategies import register


@register("mir", petl="adapter")
@dataclass
class MIR(Replay):
    """Cross-entropy over all classes seen so far, on new images and on the replayed ones most in danger."""

    subsample: Annotated[int, Field(ge=1)] = 50  # candidates a step

    def before_step(self, batch: Batch) -> Batch:
        """Put the candidates that interfere most behind the new images."""
        places = self.memory.draw(self.subsample, batch.generator("replay"))
        count = self.replay_batch or batch.num_new
        if len(places) > count:
            increase = self._increase(batch, self.memory.at(places))
            places = places[increase.topk(count).indices.cpu()]
        return batch.followed_by(self.memory.at(places))

    def replay_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean over all images."""
        return F.cross_entropy(logits, batch.labels)

    def _increase(self, batch: Batch, candidates: Stored) -> Tensor:
        """Return by how much a plain gradient step on the batch would raise each candidate's loss."""
        looked_at = batch.recalled(candidates, purpose="")
        learning = [parameter for group in self.trainable() for parameter in group["params"]]
        buffers = [buffer for part in self.model.parts().values() for buffer in part.buffers()]
        kept = [tensor.detach().clone() for tensor in (*learning, *buffers)]
        with torch.no_grad():
            before = self._losses(looked_at)
        loss = self._losses(batch).mean()
        gradients = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_sub_(learning, gradients, alpha=self.learning_rate)
            after = self._losses(looked_at)
            for tensor, value in zip((*learning, *buffers), kept, strict=True):
                tensor.copy_(value)
        return after - before

    def _losses(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.model.logits(batch), batch.labels, reduction="none")
