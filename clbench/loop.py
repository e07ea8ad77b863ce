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

from clbench.checkpoint import Checkpoint, Position, load_optimizer, optimizer_tensors
from clbench.data.batches import Batcher, shuffled
from clbench.data.samples import Samples
from clbench.errors import UserError
from clbench.evaluate.costs import PhaseClock
from clbench.evaluate.evaluator import Columns, predict_all
from clbench.evaluate.flops import count_flops
from clbench.progress import Progress
from clbench.seeds import Seeds
from clbench.strategies import Batch, Strategy
from clbench.streams import Task, TaskStream

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class DivergedError(UserError, ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class Loop:
    """One strategy on one stream, and what hears of it; ``run`` does the work."""

    strategy: Strategy
    stream: TaskStream
    batcher: Batcher
    seeds: Seeds
    progress: Progress
    save: Callable[[Checkpoint], None]  # keeps a checkpoint
    log: Callable[[int, Columns | None], list[float]]  # keeps a prediction log (None: nothing learnt yet)
    precision: str = "fp32"
    eval_batch_size: int = 256
    checkpoint_every: int = 0  # steps; 0: after epochs and tasks only
    clock: PhaseClock = field(default_factory=PhaseClock)
    flops: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0})
    optimizer: torch.optim.Optimizer | None = field(default=None, init=False)
    _counted: dict[int, float] = field(
        default_factory=dict, init=False
    )  # FLOPs an image, by tensors that learn

    def run(self, checkpoint: Checkpoint | None = None) -> None:
        """Learn and evaluate every task, from the beginning or from a checkpoint."""
        position = checkpoint.position if checkpoint else Position()
        if checkpoint:
            self._restore(checkpoint)
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
            self._evaluate(seen, has_learnt=samples is not None)
            self.optimizer = None
            position = Position(task.index + 1)
            self._checkpoint(position)

    def _begin(self, task: Task) -> None:
        self.strategy.begin_task(task)
        recipe = self.strategy
        options = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            recipe.trainable(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=self.batcher.device.type in ("cpu", "cuda"),
            **options,
        )

    def _learn(self, samples: Samples, start: Position) -> None:
        """Train for the epochs that are left."""
        for epoch in range(start.epoch, self.strategy.epochs):
            position = Position(start.task, epoch, start.step if epoch == start.epoch else 0)
            if position.step == 0:
                self.strategy.begin_epoch(epoch)
            total = self._epoch(samples, position)
            if not math.isfinite(total):
                rate = self.strategy.learning_rate
                raise DivergedError(f"the loss is no number any more; lower strategy.learning_rate ({rate})")
            self._checkpoint(Position(start.task, epoch + 1))

    def _epoch(self, samples: Samples, start: Position) -> float:
        """Train on the samples once, or on what a stopped epoch left; return the sum of the losses."""
        generator = self.seeds.generator("shuffle", start.task, start.epoch)
        batches = shuffled(len(samples), self.strategy.batch_size, self.strategy.drop_last, generator)
        self.progress.epoch_started(start.epoch, self.strategy.epochs, start.step, len(batches))
        flops_per_image = self._flops_of_training(samples.select(batches[0]), start)
        for part in self.strategy.parts().values():
            part.train()
        total = torch.zeros((), device=self.batcher.device)
        for step in range(start.step, len(batches)):
            position = Position(start.task, start.epoch, step)
            num_images = len(batches[step])
            with self.clock.phase("train", images=num_images):
                loss = self._step(self._batch(samples, batches[step], position), position)
                total += loss
            self.flops["train"] += flops_per_image * num_images
            self.progress.step_done(num_images, loss)
            if self.checkpoint_every and (step + 1) % self.checkpoint_every == 0 and step + 1 < len(batches):
                self._checkpoint(Position(start.task, start.epoch, step + 1))
        with self.clock.phase("train"):  # an accelerator is waited for here, once an epoch
            return float(total)

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
        loss.backward()
        self.optimizer.step()
        self.strategy.after_step()
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.batcher.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.strategy.loss(batch)

    def _predict(self, images: Tensor) -> Tensor:
        with torch.autocast(self.batcher.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.strategy.predict(images)

    def _evaluate(self, seen: list[Task], has_learnt: bool) -> None:
        """Predict the test images of every task seen, and hand the log on."""
        task = seen[-1]
        columns = None
        if has_learnt:
            for part in self.strategy.parts().values():
                part.eval()
            num_images = sum(len(each.test) for each in seen)
            self.progress.evaluation_started(num_images)
            with self.clock.phase("evaluate", images=num_images):
                columns = predict_all(
                    self._predict, seen, self.batcher, self.eval_batch_size, self.progress.batch_predicted
                )
            one = self.batcher.test_batch(task.test.rows[:1])
            with torch.inference_mode():
                self.flops["per_image_predict"] = float(count_flops(lambda: self._predict(one)))
            self.flops["evaluate"] += self.flops["per_image_predict"] * num_images
        self.progress.task_finished(task.index, self.log(task.index, columns))

    def _flops_of_training(self, samples: Samples, position: Position) -> float:
        """Count the FLOPs of a step on these samples, forward and backward, for one image.

        Counted once for each set of tensors that learns. The strategy is in eval mode meanwhile, so that no
        batch-norm statistic moves, and keeps no gradient.
        """
        assert self.optimizer is not None
        learning = sum(
            p.numel() for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad
        )
        if learning not in self._counted:
            for part in self.strategy.parts().values():
                part.eval()
            batch = self._batch(samples, np.arange(len(samples)), position)
            self._counted[learning] = count_flops(lambda: self._loss(batch).backward()) / len(samples)
            self.optimizer.zero_grad()
        self.flops["per_image_train"] = self._counted[learning]
        return self._counted[learning]

    def _checkpoint(self, position: Position) -> None:
        tensors = {
            f"{kind}/{name}": tensor
            for kind, part in self.strategy.parts().items()
            for name, tensor in part.state_dict().items()
        }
        if self.optimizer is not None:
            tensors |= {
                f"optimizer/{name}": value for name, value in optimizer_tensors(self.optimizer).items()
            }
        with self.clock.phase("checkpoint"):
            info = {"clock": self.clock.to_dict(), "flops": self.flops}
            self.save(Checkpoint(position, tensors, info))

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Rebuild the strategy's shapes by beginning every task begun, then load the values."""
        position = checkpoint.position
        for task in self.stream.tasks[: position.task + position.is_inside_task]:
            self._begin(task)
        if position.step > 0:
            self.strategy.begin_epoch(position.epoch)
        for kind, part in self.strategy.parts().items():
            part.load_state_dict(_under(f"{kind}/", checkpoint.tensors))
        if self.optimizer is not None and position.is_inside_task:
            load_optimizer(self.optimizer, _under("optimizer/", checkpoint.tensors))
        self.clock = PhaseClock.from_dict(checkpoint.info["clock"])
        self.flops = checkpoint.info["flops"]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
