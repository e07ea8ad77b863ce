"""Check that a strategy, a stream or a module keeps its contract: for built-ins and third parties alike.

Each check raises AssertionError with a line that says what was broken. They run on the CPU, on small
generated data and a small random backbone, in seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.checkpoint import load_checkpoint, save_checkpoint
from clbench.data.batches import Batcher
from clbench.data.contract import check_stream as check_stream
from clbench.data.samples import Samples
from clbench.evaluate.costs import stored_bytes
from clbench.evaluate.evaluator import Columns
from clbench.evaluate.meter import Meter
from clbench.inputs import Inputs
from clbench.loop import Loop
from clbench.petl.attached import Attached
from clbench.petl.contract import check_petl as check_petl
from clbench.progress import Progress
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import Task, TaskStream


def check_strategy(make: Callable[[], Strategy], module: str = "adapter") -> None:
    """Run a strategy over two generated tasks and check its contract.

    ``make`` returns a new strategy, for instance ``lambda: LAE(epochs=2)``; it should train for a few steps.
    Checked: the loss is finite and falls, the frozen backbone stays bit for bit what it was, the same seed
    gives the same numbers, a stopped and resumed run ends bit-equal, and a prediction does not depend on its
    batch mates.
    """
    stream = generated_stream()
    first = _Trial(make(), module, stream)
    first.run()
    first.check_losses()
    first.check_batch_mates()
    first.check_bytes()
    second = _Trial(make(), module, stream)
    second.run()
    first.check_equal(second, "a second run with the same seed")
    for stop_at in (1, len(first.losses) // 2, len(first.losses) - 1):
        with tempfile.TemporaryDirectory() as folder:
            third = _Trial(make(), module, stream)
            third.run(Path(folder), stop_at=stop_at)
            fourth = _Trial(make(), module, stream)
            fourth.run(Path(folder))
        first.check_equal(fourth, f"a run stopped at step {stop_at} and resumed")
    first.check_frozen()


def generated_stream(num_tasks: int = 2, classes_per_task: int = 2, per_class: int = 24) -> TaskStream:
    """Return a stream of 8-pixel images whose classes differ in colour, with noise."""
    random = np.random.default_rng(0)
    num_classes = num_tasks * classes_per_task
    labels = np.repeat(np.arange(num_classes), per_class)
    colours = random.integers(40, 216, size=(num_classes, 1, 1, 3))
    noise = random.integers(-40, 40, size=(len(labels), 8, 8, 3))
    images = (colours[labels] + noise).clip(0, 255).astype(np.uint8)
    tasks = []
    for index in range(num_tasks):
        classes = list(range(index * classes_per_task, (index + 1) * classes_per_task))
        rows = np.flatnonzero(np.isin(labels, classes))
        whole = Samples(images, rows, labels[rows])
        quarter = rows % 4
        test, validation, train = (
            whole.select(quarter == 0),
            whole.select(quarter == 1),
            whole.select(quarter > 1),
        )
        tasks.append(Task(index, classes, classes, train, validation, test))
    names = [f"colour {number}" for number in range(num_classes)]
    return TaskStream("generated", tasks, list(range(num_classes)), names, augment="none")


class _Trial(Progress):
    """One run of a strategy on the generated stream, and what is to be said of it."""

    def __init__(self, strategy: Strategy, module: str, stream: TaskStream) -> None:
        self.strategy = strategy
        self.stream = stream
        self.losses: list[float] = []
        self.first_training: list[float] = []
        self.logs: dict[int, Columns] = {}
        self.stop_at = -1
        seeds = Seeds(0)
        self.backbone: Backbone = backbones.create("vit-micro", BackboneOptions(weights="none"), seed=0)
        self.before = {name: tensor.clone() for name, tensor in self.backbone.state_dict().items()}
        strategy.setup(self.backbone, petl.get(module)(), seeds)
        self.loop = Loop(
            strategy,
            stream,
            Batcher(stream.tasks[0].train.images, self.backbone.preprocessing, "none", torch.device("cpu")),
            seeds,
            Meter(torch.device("cpu")),
            progress=self,
            save=lambda checkpoint: None,
            log=self._log,
            checkpoint_every=2,
        )

    def run(self, folder: Path | None = None, stop_at: int = -1) -> None:
        """Run, or go on from what the folder holds; stop as Ctrl-C would after step ``stop_at``."""
        self.stop_at = stop_at
        if folder is not None:
            self.loop.save = lambda checkpoint: save_checkpoint(folder, checkpoint)
        try:
            self.loop.run(load_checkpoint(folder) if folder else None)
        except KeyboardInterrupt:
            assert stop_at > 0, "the strategy raised KeyboardInterrupt"

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Keep the loss."""
        self.losses.append(float(loss))
        if len(self.losses) == self.stop_at:
            raise KeyboardInterrupt

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the strategy holds."""
        parts = self.strategy.parts().items()
        return {f"{kind}/{name}": value for kind, part in parts for name, value in part.state_dict().items()}

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Note where the first training ended."""
        if self.losses and not self.first_training:
            self.first_training = list(self.losses)

    def check_losses(self) -> None:
        """Expect finite losses, and the first training to end lower than it began."""
        assert self.losses, "the strategy was never trained"
        assert np.isfinite(self.losses).all(), f"a loss is not finite: {self.losses}"
        start, end = np.mean(self.first_training[:2]), np.mean(self.first_training[-2:])
        assert end < start, f"the loss of the first training does not fall: {start:.4f} to {end:.4f}"

    def check_batch_mates(self) -> None:
        """Expect the scores of an image to be the same alone, in a batch and in another order."""
        for part in self.strategy.parts().values():
            part.eval()
        rows = self.stream.tasks[-1].test.rows[:6]
        last = len(self.stream.tasks) - 1

        def scores(rows: NDArray[np.int64]) -> Tensor:
            return self.strategy.predict(Inputs(batcher=self.loop.batcher, rows=rows, task=last))

        with torch.inference_mode():
            together = scores(rows)
            turned = scores(rows[::-1].copy()).flip(0)
            alone = torch.cat([scores(rows[[place]]) for place in range(len(rows))])
        # the same sums in another order: a few units in the last place of float32
        for other in (turned, alone):
            torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-5)

    def check_bytes(self) -> None:
        """Expect the bytes reported to be the bytes held."""
        held = sum(tensor.numel() * tensor.element_size() for tensor in self.state().values())
        reported = stored_bytes(self.strategy.parts())["total"]
        assert reported == held, f"{reported} bytes are reported, {held} are held"

    def check_equal(self, other: _Trial, what: str) -> None:
        """Expect another run to have ended with the same state and the same predictions, bit for bit."""
        mine, theirs = self.state(), other.state()
        assert mine.keys() == theirs.keys(), f"{what} holds other tensors: {mine.keys() ^ theirs.keys()}"
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), f"{what} ends with another {name}"
        for task, columns in other.logs.items():
            for name, values in columns.items():
                assert np.array_equal(values, self.logs[task][name]), f"{what} predicts another {name}"

    def check_frozen(self) -> None:
        """Expect the backbone's own tensors unchanged once the strategy's modules are taken off."""
        for part in self.strategy.parts().values():
            if isinstance(part, Attached):
                part.detach()
        for name, tensor in self.backbone.state_dict().items():
            assert torch.equal(tensor, self.before[name]), f"the frozen tensor {name} has changed"

    def _log(self, task: int, columns: Columns | None) -> list[float]:
        if columns is None:
            return []
        self.logs[task] = columns
        return [float(np.mean(columns["prediction"] == columns["label"]))]
