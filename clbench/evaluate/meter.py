"""Keep account of what a run spends: time and images by phase, FLOPs, peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from clbench.evaluate.costs import PhaseClock
from clbench.evaluate.energy import Energy
from clbench.evaluate.flops import Counter
from clbench.evaluate.memory import PeakMemory
from clbench.evaluate.sampling import Counted, Sampling

LOOKING = ("evaluate", "watch")  # phases that predict test images


class Meter:
    """The account of one run.

    What is summed up goes through checkpoints, so the account of a resumed run covers all of it.
    """

    def __init__(self, device: torch.device, clock: PhaseClock | None = None) -> None:
        """Start with nothing spent but what the clock says."""
        self.clock = clock or PhaseClock()
        self.memory = PeakMemory(device)
        self.flops: dict[str, float] = {"train": 0.0, "evaluate": 0.0}
        self.num_trainable = 0  # parameters that the newest task's optimiser was given
        # Where several processes share the work: what is counted is computed by each of them whole, but for
        # what is known already.
        self.whole: Callable[[], AbstractContextManager[None]] = nullcontext
        self.in_parts: Callable[[], AbstractContextManager[None]] = nullcontext
        self.energy = Energy(device)
        self.by_task: list[dict[str, Any]] = []  # what was held and had been spent after each task
        self._encoded = 0  # FLOPs of what ``encoded`` has counted
        self._num_counting = 0  # countings that go on, one inside the other
        self._sampled = "task"
        self.sampling = Sampling(lambda flops: self.put(self._sampled, flops), self.counting)

    def phase(self, name: str, images: int = 0) -> AbstractContextManager[None]:
        """Return a context whose time is added to a phase."""
        return self.clock.phase(name, images)

    def lap(self, phase: str) -> None:
        """End a stretch of a phase: credit its peak memory to it, and read the energy."""
        self.memory.lap(phase)
        self.energy.read()

    @contextmanager
    def counting(self) -> Iterator[Counted]:
        """Count the operations of the block, but for what is computed for the cache, see ``charge``."""
        counted, before, counter = Counted(), self._encoded, Counter()
        self._num_counting += 1
        try:
            with self.whole(), counter:
                yield counted
        finally:
            self._num_counting -= 1
        counted.flops = counter.total - (self._encoded - before)

    def put(self, account: str, flops: float) -> None:
        """Put FLOPs on an account."""
        self.flops[account] = self.flops.get(account, 0.0) + flops

    @contextmanager
    def sampled(self, account: str) -> Iterator[None]:
        """Put the pieces of work that ``sampling`` hears of in the block on an account."""
        self._sampled = account
        try:
            yield
        finally:
            self.sampling.stop()

    def encoded(
        self, num_images: int, compute: Callable[[], Tensor], *, is_known: bool
    ) -> tuple[Tensor, int | None]:
        """Return the features that ``compute`` makes of so many images, and its FLOPs.

        These are on no account yet, see ``charge``; None: what they are ``is_known``, so nobody counted.
        """
        with self.phase("encode", images=num_images):
            if is_known and not self._num_counting:
                return compute(), None
            with self.in_parts() if is_known else self.whole(), Counter() as counter:
                features = compute()
        self._encoded += counter.total
        return features, counter.total

    def charge(self, flops: float) -> None:
        """Put the FLOPs of features on the account of the phase that asks for them, or of "encode".

        That is where a phase looks at test images; elsewhere the account is "encode".
        """
        self.put(next((name for name in reversed(self.clock.around) if name in LOOKING), "encode"), flops)

    def state(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        return {
            "clock": self.clock.to_dict(),
            "flops": dict(self.flops),
            "energy": self.energy.joules,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the sums of a checkpoint."""
        self.clock.add(state["clock"])
        self.flops = dict(state["flops"])
        self.energy.go_on_from(state.get("energy", {}))  # neither was in the first checkpoints
        self.by_task = list(state.get("by_task", []))  # in checkpoints that held all tasks

    def task_ended(self, task: int, held: dict[str, Any]) -> None:
        """Note what is held after a task (0-based), such as stored bytes, and what has been spent so far."""
        self.energy.read()
        self.clock.credit()
        seconds = {name: spent.seconds for name, spent in self.clock.phases.items()}
        spent = {"flops": dict(self.flops), "seconds": seconds, "energy": self.energy.joules}
        self.by_task.append({"task": task, **held, **spent})

    def to_dict(self) -> dict[str, Any]:
        """Return the account for the record; None stands for what cannot be read here.

        ``flops.total`` are those of all accounts; a multiply-accumulate ("macs") is two of them.
        """
        self.clock.credit()
        time = {
            name: {**vars(spent), "images_per_second": spent.images_per_second}
            for name, spent in self.clock.phases.items()
        }
        accounts = [value for name, value in self.flops.items() if not name.endswith("_per_image")]
        flops = {**self.flops, "total": sum(accounts)}
        self.energy.read()
        return {
            "time": time,
            "flops": flops,
            "macs": {name: value / 2 for name, value in flops.items()},
            "memory": self.memory.to_dict(),
            "energy": self.energy.joules,
            "by_task": self.by_task,
        }
