"""Run a strategy over the tasks of a stream, epoch by epoch.

Everything random is drawn from a generator named by its position, so a run that was stopped between two steps
goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.compress.compressed import Compressed
from clbench.data.batches import Batcher, shuffled
from clbench.data.feature_cache import GROWTH, FeatureCache
from clbench.data.inputs import Batch, Feed
from clbench.data.samples import Samples
from clbench.data.tasks import Task, TaskStream
from clbench.evaluate.meter import Meter
from clbench.evaluate.step_flops import StepFlops
from clbench.petl.scheduled import scheduled
from clbench.records.progress import Progress
from clbench.records.spec import RunOptions
from clbench.runs.account import Account
from clbench.runs.checkpoint import Checkpoint, Ended, Position, capture, restore
from clbench.runs.evaluator import Columns, Evaluator, joined
from clbench.runs.modes import evaluation_mode
from clbench.runs.optimizers import carry_over, make_optimizer
from clbench.runs.returned import (
    checked_parts,
    checked_samples,
    not_taken_back,
    refuse_nothing_to_train,
)
from clbench.runs.soundness import refuse_divergence, refuse_lost_weights, refuse_parts
from clbench.runs.starting import start_modules
from clbench.runs.step import Step
from clbench.runs.watch import Watch
from clbench.seeds import Seeds
from clbench.strategies import Strategy

BEFORE = -1  # the task after which an untrained learner is evaluated
START_BATCHES = 8  # that a module which starts from the loss is shown


@dataclass
class Loop:
    """One strategy on one stream, and what hears of it; ``run`` does the work."""

    strategy: Strategy
    stream: TaskStream
    batcher: Batcher
    seeds: Seeds
    meter: Meter
    options: RunOptions = field(default_factory=RunOptions)
    progress: Progress = field(default_factory=Progress)
    save: Callable[[Checkpoint], object] = lambda _: None  # keeps a checkpoint
    # keeps what a resumed run has to know of a task that has ended, and returns that of so many tasks
    save_ended: Callable[[int, Ended], object] = lambda *_: None
    load_ended: Callable[[int], list[Ended]] = lambda _: []
    # keeps a prediction log (None: nothing learnt yet), and returns its row of the accuracy matrix
    log: Callable[[int, Columns | None], list[float]] = lambda *_: []
    deploy: Callable[[Sequence[Task]], object] | None = None  # predicts in other forms, too, after a task
    cache: FeatureCache | None = None
    fewer: Compressed | None = None  # the form of fewer tokens in which the backbone learns
    optimizer: torch.optim.Optimizer | None = field(default=None, init=False)  # of the task begun

    def __post_init__(self) -> None:
        """Make what evaluates."""
        self.evaluator = Evaluator(
            self.strategy,
            self.stream,
            self.batcher,
            self.meter,
            self.progress,
            self.cache,
            precision=self.options.precision,
            batch_size=self.options.eval_batch_size,
        )
        self.flops = StepFlops(self.meter)
        self.step = Step(
            self.strategy, self.seeds, self.batcher.device, self.options.precision, flops=self.flops
        )
        if self.cache:
            self.cache.expect_parts([part.rows for part in self._parts()])
        self.watch = Watch(
            self.evaluator,
            self.seeds,
            every=self.options.eval_every,
            num_images=self.options.eval_images,
            prequential=self.options.prequential,
        )

    def run(self, checkpoint: Checkpoint | None = None) -> None:
        """Learn and evaluate every task, from the beginning or from a checkpoint."""
        position = checkpoint.position if checkpoint else Position()
        if checkpoint:
            with self.meter.phase("start-up"):
                self._go_back_to(checkpoint)
        for task in self.stream.tasks[position.task :]:
            if not position.is_inside_task:
                self._begin(task)
                if self.options.eval_ahead and task.index == 0:
                    self.log(BEFORE, self.evaluator.ahead(0))
            seen = self.stream.tasks[: task.index + 1]
            samples = self.strategy.training_samples(seen, len(self.stream.tasks))
            samples = checked_samples(self.strategy, samples)
            names = [self.stream.class_names[number] for number in task.classes]
            self.progress.task_started(task.index, names, len(samples) if samples else 0)
            if samples:
                self._learn(task, samples, position)
            columns = self.evaluator.after_task(seen) if samples else None
            if columns:
                self.watch.task_ended(task.index, columns)
                if self.options.eval_ahead:
                    columns = joined(columns, self.evaluator.ahead(len(seen)))
            self.progress.task_finished(task.index, self.log(task.index, columns))
            if columns and self.deploy:
                with self.meter.phase("variants"):
                    self.deploy(seen)
            if self.stream.has_boundaries:
                self.optimizer = None
            if self.cache:
                with self.meter.phase("checkpoint"):
                    self.cache.save(GROWTH)
                self.cache.forget_unused()
            position = Position(task.index + 1)
            self._checkpoint(position)
        if self.cache:
            with self.meter.phase("checkpoint"):
                self.cache.save()

    def _begin(self, task: Task) -> None:
        self.strategy.begin_task(task)
        checked_parts(self.strategy)
        before, self.optimizer = self.optimizer, None
        if self.strategy.num_epochs(task.index):
            self.optimizer = make_optimizer(self.strategy, self.batcher.device)
            refuse_nothing_to_train(self.strategy, self.optimizer)
            carry_over(before, self.optimizer)
            learning = [p for group in self.optimizer.param_groups for p in group["params"]]
            size = sum(parameter.numel() for parameter in learning)
            self.meter.num_trainable = max(size, self.meter.num_trainable)

    def _learn(self, task: Task, samples: Samples, start: Position) -> None:
        """Train for the epochs that are left, and let the strategy finish the task."""
        feed = Feed(
            samples,
            self.options.eval_batch_size,
            lambda index: self._batch(samples, index, start),
            self.meter.sampling,
        )
        if self.cache:
            for view in ("test", "whole"):
                self.cache.expect(view, samples.rows)
        if not start.is_inside_task:
            if task.index == 0:  # of what later tasks begin with, the end of the one before has told
                refuse_parts(self.strategy, "before task 1")
            evaluation_mode(self.strategy)
            with self.meter.phase("train"), self.meter.sampled("task"):
                self.strategy.before_training(task, feed)
        for epoch in range(start.epoch, self.strategy.num_epochs(task.index)):
            position = Position(start.task, epoch, start.step if epoch == start.epoch else 0)
            self._compress_for(position)
            if position.step == 0:
                self.strategy.begin_epoch(epoch)
            losses = self._epoch(samples, position)
            refuse_divergence(self.strategy, losses, f"task {task.index + 1}, epoch {epoch + 1}")
            self._checkpoint(Position(start.task, epoch + 1))
        self._compress_for(None)
        for part in scheduled(self.strategy.parts().values()):
            part.progress.fill_(1)
        with self.meter.phase("train"):
            if self.strategy.num_epochs(task.index):
                refuse_lost_weights(self.strategy, f"after the last step of task {task.index + 1}")
        evaluation_mode(self.strategy)
        with self.meter.phase("train"), self.meter.sampled("task"):
            self.strategy.end_task(task, feed)
        with self.meter.phase("train"):
            refuse_parts(self.strategy, f"after task {task.index + 1}")

    def _compress_for(self, position: Position | None) -> None:
        """Let the backbone go on with as many tokens as an epoch is to have; None: as in the end."""
        if self.fewer is not None:
            is_first = position is not None and position.task == 0
            whole = self.fewer.compressor
            self.fewer.degree = whole.during(position.epoch) if position and is_first else whole

    def _epoch(self, samples: Samples, start: Position) -> list[float]:
        """Train on the samples once, or on what a stopped epoch left; return the loss of each step."""
        batches = self._batches(samples, start)
        if not start.is_inside_task:
            first = (
                self.step.composed(self._batch(samples, each, start)) for each in batches[:START_BATCHES]
            )
            with self.meter.whole():  # directions of the gradient that are all but zero are rounding
                start_modules(self.strategy, first, self.seeds.generator("start", start.task))
        num_epochs = self.strategy.num_epochs(start.task)
        counts = (math.ceil(number / self.options.step_cost) for number in (start.step, len(batches)))
        self.progress.epoch_started(start.epoch, num_epochs, *counts)
        changing = scheduled(self.strategy.parts().values())
        assert self.optimizer is not None
        losses: list[Tensor] = []
        for step in range(start.step, len(batches)):
            position, num_images = Position(start.task, start.epoch, step), len(batches[step])
            done = (start.epoch + step / len(batches)) / num_epochs
            for part in changing:
                part.progress.fill_(done)
            batch = self._batch(samples, batches[step], position)
            self.watch.before_step(batch)
            if step % self.options.step_cost:  # it came while an earlier one was being learnt
                continue
            with self.meter.phase("train", images=num_images):
                loss = self.step.learn(batch, self.optimizer, done)
                losses.append(loss.reshape(()))
            self.progress.step_done(num_images, loss)
            is_last = (start.epoch + 1, step + 1) == (num_epochs, len(batches))
            if self.watch.after_step(batch) and not is_last:  # what comes then is looked at whole
                self.watch.look(self.stream.tasks[: start.task + 1])
            every = self.options.checkpoint_every
            if every and (step + 1) % every == 0 and step + 1 < len(batches):
                self._checkpoint(Position(start.task, start.epoch, step + 1))
        with self.meter.phase("train"):  # an accelerator is waited for here, once an epoch
            numbers: list[float] = torch.stack(losses).tolist() if losses else []
        self.meter.lap("train")
        return numbers

    def _batches(self, samples: Samples, position: Position) -> list[NDArray[np.int64]]:
        """Return the places of the samples, in batches: in the stream's order where it has one."""
        size, drop_last = self.strategy.batch_size, self.strategy.drop_last
        generator = self.seeds.generator("shuffle", position.task, position.epoch)
        return shuffled(len(samples), size, drop_last, None if self.stream.is_ordered else generator)

    def _batch(self, samples: Samples, index: NDArray[np.int64], position: Position) -> Batch:
        return Batch(
            batcher=self.batcher,
            rows=samples.rows[index],
            labels=self.batcher.labels(samples, index),
            task=position.task,
            seeds=self.seeds,
            position=(position.task, position.epoch, position.step),
            cache=self.cache,
        )

    @property
    def _account(self) -> Account:
        return Account(
            self.meter,
            self.watch,
            self.flops,
            self.evaluator.flops,
            self.cache,
            self.save_ended,
            self.load_ended,
        )

    def _parts(self) -> list[Samples]:
        return [part for task in self.stream.tasks for part in (task.train, task.test)]

    def _checkpoint(self, position: Position) -> None:
        looks = [] if position.is_inside_task else self.watch.put_behind()
        if position.is_inside_task and not self.strategy.resumable:
            return  # what it holds is enough to predict, and asked for when a task has ended
        with self.meter.phase("checkpoint"):
            if not position.is_inside_task:
                self.save_ended(position.task - 1, Ended(self.meter.by_task[-1:], looks))
            self.save(capture(position, self.strategy, self.optimizer, info=self._account.state()))

    def _go_back_to(self, checkpoint: Checkpoint) -> None:
        """Rebuild the strategy's shapes by beginning every task that was begun, then load the values."""
        position = checkpoint.position
        for task in self.stream.tasks[: position.task + position.is_inside_task]:
            self._begin(task)
        if position.is_inside_task and (position.epoch or position.step):  # what learns is chosen there
            self.strategy.begin_epoch(position.epoch if position.step else position.epoch - 1)
        if not position.is_inside_task and self.stream.has_boundaries:
            self.optimizer = None
        try:
            restore(checkpoint, self.strategy, self.optimizer)
        except (KeyError, RuntimeError, ValueError) as error:
            raise not_taken_back(self.strategy, error) from error
        self._account.load(checkpoint, self._parts())
        if position.is_inside_task:
            self._compress_for(position)
            self.watch.look_again(self.stream.tasks[: position.task + 1])
        self.progress.run_resumed(self.watch.num_steps)
