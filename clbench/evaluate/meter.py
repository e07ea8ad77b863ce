"""Keep account of what a run spends: time and images by phase, FLOPs, peak memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from clbench.evaluate.costs import PhaseClock
from clbench.evaluate.flops import count_flops
from clbench.evaluate.memory import PeakMemory


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
        self._counted: dict[tuple[str, int | str], float] = {}

    def phase(self, name: str, images: int = 0) -> AbstractContextManager[None]:
        """Return a context whose time is added to a phase."""
        return self.clock.phase(name, images)

    def flops_per_image(self, phase: str, key: int, num_images: int, once: Callable[[], object]) -> float:
        """Return the FLOPs an image of a call on ``num_images``, counted when a key is first met."""
        self.flops[f"{phase}_per_image"] = self.count(phase, key, num_images, once)
        return self._counted[phase, key]

    def has_counted(self, phase: str, key: int) -> bool:
        """Tell whether the key was met."""
        return (phase, key) in self._counted

    def count(self, what: str, key: int, num_images: int, once: Callable[[], object]) -> float:
        """Return the same for what stands on no account of its own."""
        if (what, key) not in self._counted:
            self._counted[what, key] = count_flops(once) / num_images
        return self._counted[what, key]

    def encoded(self, key: str, num_images: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return the features that ``compute`` makes of so many images, on the account of "encode"."""
        features: list[Tensor] = []
        with self.phase("encode", images=num_images):
            if ("encode", key) not in self._counted:
                flops = count_flops(lambda: features.append(compute()))
                self._counted["encode", key] = flops / num_images
            else:
                features.append(compute())
        self.flops["encode"] = self.flops.get("encode", 0.0) + num_images * self._counted["encode", key]
        return features[0]

    def state(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        return {"clock": self.clock.to_dict(), "flops": dict(self.flops)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the sums of a checkpoint."""
        self.clock = PhaseClock.from_dict(state["clock"])
        self.flops = dict(state["flops"])

    def to_dict(self) -> dict[str, Any]:
        """Return the account for the record; "energy" is None because it is not measured."""
        time = {
            name: {**vars(spent), "images_per_second": spent.images_per_second}
            for name, spent in self.clock.phases.items()
        }
        return {"time": time, "flops": self.flops, "memory": self.memory.to_dict(), "energy": None}
