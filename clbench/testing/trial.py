"""Run a strategy over two small generated tasks, and expect of the run what is to be expected.

What ``clbench.testing`` checks a strategy with. Each check raises AssertionError with a line that says what
was broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.data.inputs import Inputs
from clbench.data.tasks import TaskStream
from clbench.evaluate.costs import capacity_bytes, stored_bytes
from clbench.evaluate.meter import Meter
from clbench.evaluate.score_check import ScoreCheck
from clbench.learning.memory import Memory
from clbench.options import build
from clbench.outside.mistakes import explained
from clbench.petl import Petl
from clbench.petl.attached import Attached
from clbench.records.progress import Progress
from clbench.records.spec import RunOptions
from clbench.registry import UnknownNameError
from clbench.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clbench.runs.evaluator import Columns
from clbench.runs.loop import Loop
from clbench.runs.returned import checked_parts
from clbench.seeds import Seeds, forked_everywhere
from clbench.strategies import Strategy
from clbench.testing.attributes import lost, snapshot, unregistered
from clbench.testing.watching import Watch


class Trial(Progress):
    """One run of a strategy on the generated stream, and what is to be said of it."""

    def __init__(
        self,
        strategy: Strategy,
        module: str | None,
        stream: TaskStream,
        backbone: Backbone,
        *,
        is_exact: bool = False,
        chance: int = 0,
    ) -> None:
        """Set the strategy up with the named module, or its own; ``is_exact`` leaves the feature cache away.

        ``chance`` seeds the global generators, on which nothing may depend.
        """
        self.strategy = strategy
        self.module = module_for(type(strategy), module)
        self.stream = stream
        self.chance = chance
        self.watch = Watch(strategy, stream)
        self.kept: dict[int, dict[str, str]] = {}  # by checkpoint: what is in no part, see ``snapshot``
        self.found: dict[str, str] = {}  # the same in a resumed run, before it goes on
        self.losses: list[float] = []
        self.first_training: list[float] = []
        self.logs: dict[int, Columns] = {}
        self.num_saved = 0  # checkpoints
        seeds = Seeds(0)
        self.backbone = backbone
        self.before = {name: tensor.clone() for name, tensor in self.backbone.state_dict().items()}
        with self._guarded():
            strategy.setup(self.backbone, self.module, seeds)
            checked_parts(strategy)
        self.check_freezing()
        self.loop = self._loop(seeds, is_exact=is_exact)

    def _loop(self, seeds: Seeds, *, is_exact: bool) -> Loop:
        batcher = Batcher(
            self.stream.tasks[0].train.images, self.backbone.preprocessing, "none", torch.device("cpu")
        )
        cache = None if is_exact else FeatureCache(batcher, batch_size=16)
        if cache:
            self.watch.hand(cache)
        return Loop(
            self.strategy,
            self.stream,
            batcher,
            seeds,
            Meter(torch.device("cpu")),
            RunOptions(checkpoint_every=2),
            progress=self,
            save=self._count,
            log=self._log,
            cache=cache,
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let the author's own errors come as one line, and no draw depend on what was drawn before."""
        with explained(self.strategy, self.module), forked_everywhere(self.chance):
            yield

    def run(self) -> None:
        """Run from the beginning."""
        with self._guarded():
            self.loop.run()

    def run_keeping(self, folders: dict[int, Path]) -> None:
        """Run, and leave in each folder what a run holds that stops after the checkpoint of that number."""

        def save(checkpoint: Checkpoint) -> None:
            number = self._count(checkpoint) - 1
            if number in folders:
                save_checkpoint(folders[number], checkpoint)
                self.kept[number] = self._snapshot()

        self.loop.save = save
        self.run()

    def resume(self, folder: Path) -> None:
        """Go on from the checkpoint in a folder, which keeps those that follow."""
        self.loop.save = partial(save_checkpoint, folder)
        with self._guarded():
            self.loop.run(load_checkpoint(folder))

    def run_resumed(self, num_steps: int) -> None:
        """Note what the strategy holds beside its parts when it goes on."""
        self.found = self._snapshot()

    def lost_since(self, kept: dict[str, str]) -> str:
        """Name what was held beside the parts when the run was stopped, and was not when it went on."""
        places = lost(kept, self.found)
        return f"; lost when it stopped, being in none of parts(): {places}" if places else ""

    def _snapshot(self) -> dict[str, str]:
        return snapshot(self.strategy, [self.backbone, *self.strategy.parts().values()])

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
        """Note where the first training ended, and look at what has learnt."""
        self.check_memories()
        if self.strategy.resumable:  # if not, parts() need not be all that it holds
            self.check_parts()
        if self.losses and not self.first_training:
            self.first_training = list(self.losses)

    def check_memories(self) -> None:
        """Expect no memory to hold more than it may."""
        for part in self.strategy.parts().values():
            for memory in part.modules():
                if isinstance(memory, Memory):
                    held, allowed = len(memory.items), memory.capacity
                    assert len(memory) <= held <= allowed, f"a memory of {allowed} holds {held} items"

    def check_parts(self) -> None:
        """Expect everything that requires a gradient in a part."""
        parts = self.strategy.parts().values()
        outside = unregistered(self.strategy, [self.backbone, *parts])
        assert not outside, f"{', '.join(outside[:3])} requires a gradient and is in none of parts()"

    def check_freezing(self) -> None:
        """Expect the backbone's own parameters to require no gradient."""
        own = {id(parameter) for part in self.strategy.parts().values() for parameter in part.parameters()}
        thawed = [
            name for name, p in self.backbone.named_parameters() if p.requires_grad and id(p) not in own
        ]
        assert not thawed, f"the backbone is to stay frozen, but its {thawed[0]} requires a gradient"

    def check_losses(self) -> None:
        """Expect finite losses, and the first training, if there is one, to end lower than it began."""
        if not any(self.strategy.num_epochs(task.index) for task in self.stream.tasks):
            return
        assert self.losses, "the strategy was never trained: no task came to a step"
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
            self._check_scores(together)
            turned = scores(rows[::-1].copy()).flip(0)
            alone = torch.cat([scores(rows[[place]]) for place in range(len(rows))])
        # the same sums in another order: a few units in the last place of float32
        for other, where in ((turned, "in another order"), (alone, "without the rest of its batch")):
            is_close = torch.allclose(other, together, rtol=1e-4, atol=1e-5)
            assert is_close, f"an image gets other scores {where}"

    def _check_scores(self, scores: Tensor) -> None:
        """Expect finite scores that tell images apart, and probabilities where they are declared."""
        check = ScoreCheck(are_probabilities=self.strategy.gives_probabilities)
        check.add(scores)
        fault = check.fault(is_to_tell=True)
        assert not fault, f"predict: {fault}"

    def check_bytes(self) -> None:
        """Expect the bytes reported to be the bytes held, those that a memory has not filled yet apart."""
        allocated = sum(tensor.numel() * tensor.element_size() for tensor in self.state().values())
        parts = self.strategy.parts()
        room, held = capacity_bytes(parts)["total"], stored_bytes(parts)["total"]
        assert room == allocated, f"{room} bytes are reported to have room, {allocated} are allocated"
        assert held <= room, f"{held} bytes are reported to be held, in a room of {room}"

    def check_equal(self, other: Trial, what: str, cause: str = "") -> None:
        """Expect another run to have ended with the same state and the same predictions, bit for bit.

        ``cause`` ends the line where it did not.
        """
        mine, theirs = self.state(), other.state()
        differing = mine.keys() ^ theirs.keys()
        assert not differing, f"{what} holds other tensors, {', '.join(sorted(differing))}{cause}"
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), f"{what} ends with another {name}{cause}"
        for task, columns in other.logs.items():
            for name, values in columns.items():
                same = np.array_equal(values, self.logs[task][name], equal_nan=True)  # NaN: not known
                assert same, f"{what} predicts another {name}{cause}"

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


def module_for(strategy: type[Strategy], name: str | None = None) -> Petl:
    """Return the named module with the options that ``clbench run`` would give it with a strategy.

    Without a name it is the module that the strategy is registered with; "linear" where it is not registered.
    """
    if name is None:
        try:
            card = strategies.registry.card(strategies.registry.name_of(strategy))
            name = str(card.preset.get("petl", "linear"))
        except UnknownNameError:
            name = "linear"
    return build(petl.get(name), "petl", strategy.module_options.get(name, {}))
