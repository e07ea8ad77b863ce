"""Make one training step of a strategy: the only place where a loss is differentiated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clbench.data.inputs import Batch
from clbench.evaluate.meter import Meter
from clbench.runs.modes import evaluation_mode, training_mode
from clbench.runs.optimizers import set_rates
from clbench.runs.returned import checked_batch, checked_loss
from clbench.seeds import Seeds
from clbench.strategies import Strategy


@dataclass
class Step:
    """Learns a batch with one strategy; what is drawn at random is named by the batch's position."""

    strategy: Strategy
    seeds: Seeds
    device: torch.device
    precision: str  # fp32, or bf16 for autocast

    def learn(self, batch: Batch, optimizer: torch.optim.Optimizer, done: float) -> Tensor:
        """Make as many optimiser steps as the strategy wants of a batch; return the last loss.

        ``done`` is the share of the task's training that is behind, in [0, 1): schedules go by it. The loss
        is detached and still on the device.
        """
        for update in range(self.strategy.steps_per_batch() - 1):
            once_more = replace(batch, position=(*batch.position, update), is_last_update=False)
            self._update(once_more, optimizer, done)
        return self._update(batch, optimizer, done)

    def composed(self, batch: Batch) -> Batch:
        """Return what the strategy makes of a new batch, such as one with replayed images behind it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return checked_batch(self.strategy, self.strategy.before_step(batch))

    def flops_per_image(self, batch: Batch, optimizer: torch.optim.Optimizer, meter: Meter) -> float:
        """Count a step up to the update for one new image, in eval mode: no batch-norm statistic moves.

        What leads to the loss is the forward pass, what follows from it, before the update, the backward.
        """
        evaluation_mode(self.strategy)
        groups = optimizer.param_groups
        learning = sum(p.numel() for group in groups for p in group["params"] if p.requires_grad)
        made: list[tuple[Batch, Tensor]] = []

        def forward() -> None:
            composed = self.composed(batch)
            made.append((composed, self._loss(composed)))

        def backward() -> None:
            composed, loss = made.pop()
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            self.strategy.before_update(composed)

        if batch.cache and not meter.has_counted("train_forward", learning):
            forward()  # what is computed for the cache is on another account
            backward()
        passes = {"train_forward": forward, "train_backward": backward}
        counts = [meter.flops_per_image(name, learning, len(batch), once) for name, once in passes.items()]
        optimizer.zero_grad()
        meter.flops["train_per_image"] = sum(counts)
        return sum(counts)

    def _update(self, batch: Batch, optimizer: torch.optim.Optimizer, done: float) -> Tensor:
        training_mode(self.strategy)
        self.seeds.seed_torch(*batch.position)
        set_rates(optimizer, self.strategy, done)
        batch = self.composed(batch)
        loss = self._loss(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        self.strategy.before_update(batch)
        optimizer.step()
        self.strategy.after_step(batch)
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return checked_loss(self.strategy, self.strategy.loss(batch))
