"""Keep account of what a run spends: time and images by phase, FLOPs, peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from clbench.evaluate.costs import PhaseClock
from clbench.evaluate.energy import Energy
from clbench.evaluate.flops import count_flops
from clbench.evaluate.memory import PeakMemory
from clbench.evaluate.sampling import Sampling

LOOKING = ("evaluate", "watch")  # phases that predict test images


class Meter:
    """The account of one run.

    What is summed up goes through checkpoints, so the account of a resumed run covers all of it.
    """

    def __init__(self, device: torch.device) -> None:
        """Start with nothing spent."""
        self.clock = PhaseClock()
        self.memory = PeakMemory(device)
        self.flops: dict[str, float] = {"train": 0.0, "evaluate": 0.0}
        self.num_trainable = 0  # parameters that the newest task's optimiser was given
        self.energy = Energy(device)
        self.by_task: list[dict[str, Any]] = []  # what was held and had been spent after each task
        self._counted: dict[tuple[str, int | str], float] = {}
        self._encoded = 0.0  # FLOPs of what ``encoded`` and ``reused`` have computed
        self._sampled = "task"
        self.sampling = Sampling(lambda flops: self.put(self._sampled, flops), lambda: self._encoded)

    def phase(self, name: str, images: int = 0) -> AbstractContextManager[None]:
        """Return a context whose time is added to a phase."""
        return self.clock.phase(name, images)

    def flops_per_image(self, phase: str, key: int, num_images: int, once: Callable[[], object]) -> float:
        """Return the FLOPs an image of a call on ``num_images``, counted when a key is first met."""
        self.flops[f"{phase}_per_image"] = self.count(phase, key, num_images, once)
        return self._counted[phase, key]

    def lap(self, phase: str) -> None:
        """End a stretch of a phase: credit its peak memory to it, and read the energy."""
        self.memory.lap(phase)
        self.energy.read()

    def measured(self, call: Callable[[], object]) -> float:
        """Call once and return its FLOPs, but for those that ``encoded`` has put on an account."""
        before = self._encoded
        flops = count_flops(call)
        return max(0.0, flops - (self._encoded - before))

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

    def has_counted(self, phase: str, key: int) -> bool:
        """Tell whether the key was met."""
        return (phase, key) in self._counted

    def count(self, what: str, key: int, num_images: int, once: Callable[[], object]) -> float:
        """Return the same for what stands on no account of its own."""
        if (what, key) not in self._counted:
            self._counted[what, key] = count_flops(once) / num_images
        return self._counted[what, key]

    def encoded(self, key: str, num_images: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return the features that ``compute`` makes of so many images.

        They are on the account of the phase that asks for them, where that looks at test images, and of
        "encode" elsewhere.
        """
        features: list[Tensor] = []
        with self.phase("encode", images=num_images):
            if ("encode", key) not in self._counted:
                flops = count_flops(lambda: features.append(compute()))
                self._counted["encode", key] = flops / num_images
            else:
                features.append(compute())
        self._encoded += self._put_encoding(key, num_images)
        return features[0]

    def reused(self, key: str, num_images: int, compute_one: Callable[[], Tensor]) -> None:
        """Put features that an earlier run has computed on the same account, as if they were computed now."""
        if ("encode", key) not in self._counted:
            self._counted["encode", key] = float(count_flops(compute_one))
            self._encoded += self._counted["encode", key]
        self._put_encoding(key, num_images)

    def _put_encoding(self, key: str, num_images: int) -> float:
        account = next((name for name in reversed(self.clock.around) if name in LOOKING), "encode")
        spent = num_images * self._counted["encode", key]
        self.put(account, spent)
        return spent

    def state(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        return {
            "clock": self.clock.to_dict(),
            "flops": dict(self.flops),
            "energy": self.energy.joules,
            "by_task": list(self.by_task),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the sums of a checkpoint."""
        self.clock = PhaseClock.from_dict(state["clock"])
        self.flops = dict(state["flops"])
        self.energy.go_on_from(state.get("energy", {}))  # neither was in the first checkpoints
        self.by_task = list(state.get("by_task", []))

    def task_ended(self, task: int, held: dict[str, Any]) -> None:
        """Note what is held after a task (0-based), such as stored bytes, and what has been spent so far."""
        self.energy.read()
        seconds = {name: spent.seconds for name, spent in self.clock.phases.items()}
        spent = {"flops": dict(self.flops), "seconds": seconds, "energy": self.energy.joules}
        self.by_task.append({"task": task, **held, **spent})

    def to_dict(self) -> dict[str, Any]:
        """Return the account for the record; None stands for what cannot be read here.

        ``flops.total`` are those of all accounts; a multiply-accumulate ("macs") is two of them.
        """
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
