"""Run a strategy over two small generated tasks, and say what is to be said of the run.

What ``clbench.testing`` checks a strategy with. Each check raises AssertionError with a line that says what
was broken.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench import petl
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.data.inputs import Inputs
from clbench.data.samples import Samples
from clbench.data.tasks import Task, TaskStream
from clbench.evaluate.costs import capacity_bytes, stored_bytes
from clbench.evaluate.meter import Meter
from clbench.evaluate.score_check import ScoreCheck
from clbench.learning.memory import Memory
from clbench.petl.attached import Attached
from clbench.records.progress import Progress
from clbench.records.spec import RunOptions
from clbench.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clbench.runs.evaluator import Columns
from clbench.runs.loop import Loop
from clbench.seeds import Seeds, forked
from clbench.strategies import Strategy


def small_backbone() -> Backbone:
    """Return an opened ViT of three blocks of width 32 on images of 8 pixels, with fixed random weights."""
    from timm.models.vision_transformer import VisionTransformer

    with forked(0):
        model = VisionTransformer(8, 2, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    seen = Preprocessing(8, mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0, interpolation="bilinear")
    return open_model("small-vit", model, seen, source="random", digest="small-vit")


def generated_stream(
    num_tasks: int = 2, classes_per_task: int = 2, per_class: int = 24, scenario: str = "class"
) -> TaskStream:
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
    order = list(range(num_classes))
    return TaskStream("generated", tasks, order, names, augment="none", scenario=scenario)


class Trial(Progress):
    """One run of a strategy on the generated stream, and what is to be said of it."""

    def __init__(
        self, strategy: Strategy, module: str, stream: TaskStream, backbone: Backbone, *, is_exact: bool
    ) -> None:
        """Set the strategy up; ``is_exact`` leaves the feature cache away."""
        self.strategy = strategy
        self.stream = stream
        self.losses: list[float] = []
        self.first_training: list[float] = []
        self.logs: dict[int, Columns] = {}
        self.num_saved = 0  # checkpoints
        seeds = Seeds(0)
        self.backbone = backbone
        self.before = {name: tensor.clone() for name, tensor in self.backbone.state_dict().items()}
        strategy.setup(self.backbone, petl.get(module)(), seeds)
        batcher = Batcher(
            stream.tasks[0].train.images, self.backbone.preprocessing, "none", torch.device("cpu")
        )
        self.loop = Loop(
            strategy,
            stream,
            batcher,
            seeds,
            Meter(torch.device("cpu")),
            RunOptions(checkpoint_every=2),
            progress=self,
            save=self._count,
            log=self._log,
            cache=None if is_exact else FeatureCache(batcher, batch_size=16),
        )

    def run(self, folder: Path | None = None) -> None:
        """Run, or go on from the checkpoint in a folder, which keeps those that follow."""
        if folder is not None:
            self.loop.save = partial(save_checkpoint, folder)
        self.loop.run(load_checkpoint(folder) if folder else None)

    def run_keeping(self, folders: dict[int, Path]) -> None:
        """Run, and leave in each folder what a run holds that stops after the checkpoint of that number."""

        def save(checkpoint: Checkpoint) -> None:
            folder = folders.get(self._count(checkpoint) - 1)
            if folder is not None:
                save_checkpoint(folder, checkpoint)

        self.loop.save = save
        self.run()

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Keep the loss, and look at the memories."""
        self.losses.append(float(loss))
        self.check_memories()

    def places_to_stop(self) -> list[int]:
        """Return numbers of checkpoints: the first, one in the middle, and the last but one."""
        return sorted({0, self.num_saved // 2, max(0, self.num_saved - 2)})

    def _count(self, checkpoint: Checkpoint) -> int:
        self.num_saved += 1
        return self.num_saved

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the strategy holds."""
        parts = self.strategy.parts().items()
        return {f"{kind}/{name}": value for kind, part in parts for name, value in part.state_dict().items()}

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Note where the first training ended."""
        self.check_memories()
        if self.losses and not self.first_training:
            self.first_training = list(self.losses)

    def check_memories(self) -> None:
        """Expect no memory to hold more than it may."""
        for part in self.strategy.parts().values():
            for memory in part.modules():
                if isinstance(memory, Memory):
                    held, allowed = len(memory.items), memory.capacity
                    assert len(memory) <= held <= allowed, f"a memory of {allowed} holds {held} items"

    def check_losses(self) -> None:
        """Expect finite losses, and the first training, if there is one, to end lower than it began."""
        if not any(self.strategy.num_epochs(task.index) for task in self.stream.tasks):
            return
        assert self.losses, "the strategy was never trained"
        assert np.isfinite(self.losses).all(), f"a loss is not finite: {self.losses}"
        start, end = np.mean(self.first_training[:2]), np.mean(self.first_training[-2:])
        assert end < start, f"the loss of the first training does not fall: {start:.4f} to {end:.4f}"

    def check_batch_mates(self) -> None:
        """Expect scores that tell images apart, of each the same alone, in a batch and in another order."""
        for part in self.strategy.parts().values():
            part.eval()
        rows = self.stream.tasks[-1].test.rows[::2]  # of every class: what a vote decides is seen
        last = len(self.stream.tasks) - 1

        def scores(rows: NDArray[np.int64]) -> Tensor:
            return self.strategy.predict(Inputs(batcher=self.loop.batcher, rows=rows, task=last))

        with torch.inference_mode():
            together = scores(rows)
            turned = scores(rows[::-1].copy()).flip(0)
            alone = torch.cat([scores(rows[[place]]) for place in range(len(rows))])
        check = ScoreCheck(are_probabilities=self.strategy.gives_probabilities)
        check.add(together)
        fault = check.fault(is_to_tell=True)
        assert not fault, f"predict: {fault}"
        # the same sums in another order: a few units in the last place of float32
        for other, where in ((turned, "in another order"), (alone, "without the rest of its batch")):
            is_close = torch.allclose(other, together, rtol=1e-4, atol=1e-5)
            assert is_close, f"an image gets other scores {where}"

    def check_bytes(self) -> None:
        """Expect the bytes reported to be the bytes held, those that a memory has not filled yet apart."""
        allocated = sum(tensor.numel() * tensor.element_size() for tensor in self.state().values())
        parts = self.strategy.parts()
        room, held = capacity_bytes(parts)["total"], stored_bytes(parts)["total"]
        assert room == allocated, f"{room} bytes are reported to have room, {allocated} are allocated"
        assert held <= room, f"{held} bytes are reported to be held, in a room of {room}"

    def check_equal(self, other: Trial, what: str) -> None:
        """Expect another run to have ended with the same state and the same predictions, bit for bit."""
        mine, theirs = self.state(), other.state()
        assert mine.keys() == theirs.keys(), f"{what} holds other tensors: {mine.keys() ^ theirs.keys()}"
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), f"{what} ends with another {name}"
        for task, columns in other.logs.items():
            for name, values in columns.items():
                same = np.array_equal(values, self.logs[task][name], equal_nan=True)  # NaN: not known
                assert same, f"{what} predicts another {name}"

    def check_predictions(self, other: Trial, what: str) -> None:
        """Expect another run to predict the same classes."""
        for task, columns in other.logs.items():
            same = np.array_equal(columns["prediction"], self.logs[task]["prediction"])
            assert same, f"{what} predicts other classes after task {task + 1}"

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
