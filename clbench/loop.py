"""Run a strategy over the tasks of a stream: the only place with a training step.

Everything random is drawn from a generator named by its position, so a run that was stopped between two steps
goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.checkpoint import Checkpoint, Position, capture, restore
from clbench.data.batches import Batcher, shuffled
from clbench.data.samples import Samples
from clbench.errors import UserError
from clbench.evaluate.evaluator import Columns, predict_all
from clbench.evaluate.meter import Meter
from clbench.optimizers import make_optimizer
from clbench.progress import Progress
from clbench.schedule import scheduled, start_modules
from clbench.seeds import Seeds
from clbench.strategies import Batch, Strategy
from clbench.streams import Task, TaskStream

START_BATCHES = 8  # that a module which starts from the loss is shown


class DivergedError(UserError, ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class Loop:
    """One strategy on one stream, and what hears of it; ``run`` does the work."""

    strategy: Strategy
    stream: TaskStream
    batcher: Batcher
    seeds: Seeds
    meter: Meter
    progress: Progress
    save: Callable[[Checkpoint], object]  # keeps a checkpoint
    log: Callable[[int, Columns | None], list[float]]  # keeps a prediction log (None: nothing learnt yet)
    precision: str = "fp32"
    eval_batch_size: int = 256
    checkpoint_every: int = 0  # steps; 0: after epochs and tasks only
    optimizer: torch.optim.Optimizer | None = field(default=None, init=False)  # of the task begun

    def run(self, checkpoint: Checkpoint | None = None) -> None:
        """Learn and evaluate every task, from the beginning or from a checkpoint."""
        position = checkpoint.position if checkpoint else Position()
        if checkpoint:
            self._go_back_to(checkpoint)
        for task in self.stream.tasks[position.task :]:
            if not position.is_inside_task:
                self._begin(task)
            seen = self.stream.tasks[: task.index + 1]
            samples = self.strategy.training_samples(seen, len(self.stream.tasks))
            names = [self.stream.class_names[number] for number in task.classes]
            self.progress.task_started(task.index, names, len(samples) if samples else 0)
            if samples:
                self._learn(samples, position)
            self.strategy.end_task(task)
            columns = self._predict_all(seen) if samples else None
            self.progress.task_finished(task.index, self.log(task.index, columns))
            self.optimizer = None
            position = Position(task.index + 1)
            self._checkpoint(position)

    def _begin(self, task: Task) -> None:
        self.strategy.begin_task(task)
        self.optimizer = make_optimizer(self.strategy, self.batcher.device)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.meter.num_trainable = sum(parameter.numel() for parameter in learning)

    def _learn(self, samples: Samples, start: Position) -> None:
        """Train for the epochs that are left."""
        for epoch in range(start.epoch, self.strategy.epochs):
            position = Position(start.task, epoch, start.step if epoch == start.epoch else 0)
            if position.step == 0:
                self.strategy.begin_epoch(epoch)
            if not math.isfinite(self._epoch(samples, position)):
                rate = self.strategy.learning_rate
                raise DivergedError(f"the loss is no number any more; lower strategy.learning_rate ({rate})")
            self._checkpoint(Position(start.task, epoch + 1))
        for part in scheduled(self.strategy.parts().values()):
            part.progress.fill_(1)

    def _epoch(self, samples: Samples, start: Position) -> float:
        """Train on the samples once, or on what a stopped epoch left; return the sum of the losses."""
        generator = self.seeds.generator("shuffle", start.task, start.epoch)
        batches = shuffled(len(samples), self.strategy.batch_size, self.strategy.drop_last, generator)
        if not start.is_inside_task:
            first = (self._batch(samples, each, start) for each in batches[:START_BATCHES])
            start_modules(self.strategy, first, self.seeds.generator("start", start.task))
        self.progress.epoch_started(start.epoch, self.strategy.epochs, start.step, len(batches))
        changing = scheduled(self.strategy.parts().values())
        flops_per_image = self._flops_of_a_step(samples.select(batches[0]), start)
        self._set_training(True)
        total = torch.zeros((), device=self.batcher.device)
        for step in range(start.step, len(batches)):
            position, num_images = Position(start.task, start.epoch, step), len(batches[step])
            for part in changing:
                part.progress.fill_((start.epoch + step / len(batches)) / self.strategy.epochs)
            with self.meter.phase("train", images=num_images):
                loss = self._step(self._batch(samples, batches[step], position), position)
                total += loss
            self.meter.flops["train"] += flops_per_image * num_images
            self.progress.step_done(num_images, loss)
            if self.checkpoint_every and (step + 1) % self.checkpoint_every == 0 and step + 1 < len(batches):
                self._checkpoint(Position(start.task, start.epoch, step + 1))
        with self.meter.phase("train"):  # an accelerator is waited for here, once an epoch
            sum_of_losses = float(total)
        self.meter.memory.lap("train")
        return sum_of_losses

    def _batch(self, samples: Samples, index: NDArray[np.int64], position: Position) -> Batch:
        generator = self.seeds.generator("augment", position.task, position.epoch, position.step)
        images = self.batcher.training_batch(samples.rows[index], generator)
        return Batch(images, self.batcher.labels(samples, index), position.task)

    def _step(self, batch: Batch, position: Position) -> Tensor:
        """Make one optimiser step; return its loss, still on the device."""
        assert self.optimizer is not None
        self.seeds.seed_torch(position.task, position.epoch, position.step)
        loss = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        self.optimizer.step()
        self.strategy.after_step()
        return loss.detach()

    def _flops_of_a_step(self, samples: Samples, position: Position) -> float:
        """Count forward and backward of a step for one image, in eval mode: no batch-norm statistic moves."""
        assert self.optimizer is not None
        self._set_training(False)
        batch = self._batch(samples, np.arange(len(samples)), position)
        groups = self.optimizer.param_groups
        learning = sum(p.numel() for group in groups for p in group["params"] if p.requires_grad)

        def once() -> None:
            self._loss(batch).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it

        per_image = self.meter.flops_per_image("train", learning, len(samples), once)
        self.optimizer.zero_grad()
        return per_image

    def _predict_all(self, seen: list[Task]) -> Columns:
        """Predict the test images of every task seen."""
        self._set_training(False)
        num_images = sum(len(task.test) for task in seen)
        self.progress.evaluation_started(num_images)
        heard = self.progress.batch_predicted
        with self.meter.phase("evaluate", images=num_images):
            columns = predict_all(self._predict, seen, self.batcher, self.eval_batch_size, heard)
        self.meter.memory.lap("evaluate")
        one = self.batcher.test_batch(seen[-1].test.rows[:1])
        # With gradients, because torch's counter asks what has some for its node of the graph.
        per_image = self.meter.flops_per_image("evaluate", len(seen), 1, lambda: self._predict(one))
        self.meter.flops["evaluate"] += per_image * num_images
        return columns

    def _loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.batcher.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.strategy.loss(batch)

    def _predict(self, images: Tensor) -> Tensor:
        with torch.autocast(self.batcher.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.strategy.predict(images)

    def _set_training(self, mode: bool) -> None:
        for part in self.strategy.parts().values():
            part.train(mode)

    def _checkpoint(self, position: Position) -> None:
        with self.meter.phase("checkpoint"):
            self.save(capture(position, self.strategy, self.optimizer, info=self.meter.state()))

    def _go_back_to(self, checkpoint: Checkpoint) -> None:
        """Rebuild the strategy's shapes by beginning every task that was begun, then load the values."""
        position = checkpoint.position
        for task in self.stream.tasks[: position.task + position.is_inside_task]:
            self._begin(task)
        if position.step > 0:
            self.strategy.begin_epoch(position.epoch)
        restore(checkpoint, self.strategy, self.optimizer if position.is_inside_task else None)
        self.meter.load(checkpoint.info)
