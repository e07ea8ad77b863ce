"""Make one training step of a strategy: the only place where a loss is differentiated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clbench.data.inputs import Batch
from clbench.evaluate.step_flops import StepFlops
from clbench.runs.modes import training_mode
from clbench.runs.optimizers import rate_factor, set_rates
from clbench.runs.returned import checked_batch, checked_loss
from clbench.runs.soundness import refuse_first_loss
from clbench.seeds import Seeds
from clbench.strategies import Strategy


@dataclass
class Step:
    """Learns a batch with one strategy; what is drawn at random is named by the batch's position."""

    strategy: Strategy
    seeds: Seeds
    device: torch.device
    precision: str  # fp32, or bf16 for autocast
    flops: StepFlops

    def learn(self, batch: Batch, optimizer: torch.optim.Optimizer, done: float) -> Tensor:
        """Make as many optimiser steps as the strategy wants of a batch; return the last loss.

        ``done`` is the share of the task's training that is behind, in [0, 1): schedules go by it. The loss
        is detached and still on the device.
        """
        for update in range(self.strategy.steps_per_batch() - 1):
            once_more = replace(batch, position=(*batch.position, update), is_last_update=False, num_drawn=[])
            self._update(once_more, optimizer, done)
        return self._update(batch, optimizer, done)

    def composed(self, batch: Batch) -> Batch:
        """Return what the strategy makes of a new batch, such as one with replayed images behind it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return checked_batch(self.strategy, self.strategy.before_step(batch))

    def _update(self, new: Batch, optimizer: torch.optim.Optimizer, done: float) -> Tensor:
        training_mode(self.strategy)
        self.seeds.seed_torch(*new.position)
        num_epochs = self.strategy.num_epochs(new.task)
        set_rates(optimizer, rate_factor(self.strategy, done, new.position[1], num_epochs))
        self.flops.begin(new.position[:2], len(new))
        with self.flops.part("forward"):
            batch = self.composed(new)
            loss = self._loss(batch)
        optimizer.zero_grad()
        with self.flops.part("backward"):
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            self.strategy.before_update(batch)
        optimizer.step()
        with self.flops.part("backward"):
            self.strategy.after_step(batch)
        self.flops.end(len(new), new.num_drawn)
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = checked_loss(self.strategy, self.strategy.loss(batch))
            if batch.position[1:] == self._first_position:  # an accelerator is waited for, once a task
                refuse_first_loss(self.strategy, batch, loss)
            return loss

    @property
    def _first_position(self) -> tuple[int, ...]:
        """Epoch and step of a task's first update, and its number where a batch has several."""
        return (0, 0, 0) if self.strategy.steps_per_batch() > 1 else (0, 0)
