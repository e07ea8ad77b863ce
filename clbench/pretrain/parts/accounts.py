"""Keep account of what a training spends: steps, seconds, operations, and memory for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clbench.evaluate.flops import Counter
from clbench.evaluate.memory import PeakMemory


@dataclass
class Spent:
    """What one training has spent so far."""

    steps: int = 0
    seconds: float = 0.0
    flops_a_step: int = 0  # of the first step, forward and backward; all are alike
    activations: int = 0  # bytes that its forward pass kept for the backward pass
    peak_memory: int = (
        0  # bytes of the process, or of tensors on the accelerator, in the first step; 0: unknown
    )
    flops_once: int = 0  # of what came before the first step: a teacher's look at all images

    @property
    def flops(self) -> int:
        """Of all steps."""
        return self.steps * self.flops_a_step + self.flops_once

    def to_tensor(self) -> Tensor:
        """Return it as a tensor (6,) of doubles, which hold whole numbers up to 2^53."""
        return torch.tensor(astuple(self), dtype=torch.float64)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Spent:
        """Read what ``to_tensor`` returned."""
        steps, seconds, *others = tensor.tolist()
        return cls(int(steps), seconds, *map(int, others))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "flops": self.flops,
            "activation_bytes": self.activations,
            "peak_memory_bytes": self.peak_memory or None,
        }


@contextmanager
def measuring(spent: Spent, network: nn.Module, device: torch.device) -> Iterator[None]:
    """Measure what the block spends, a step of the network, if no step was measured yet."""
    if spent.flops_a_step:
        yield
        return
    memory, kept, counter = PeakMemory(device), Kept(network), Counter()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack), counter:
        yield
    spent.flops_a_step, spent.activations = counter.total, kept.num_bytes
    spent.peak_memory = memory.accelerator or memory.process or 0


class Kept:
    """What autograd keeps for a backward pass, each storage once, without the network's own tensors."""

    def __init__(self, network: nn.Module) -> None:
        """Know the network's own tensors."""
        own = [*network.parameters(), *network.buffers()]
        self.own = {each.untyped_storage().data_ptr() for each in own}
        self.seen: dict[int, int] = {}  # bytes of a storage by its address

    @property
    def num_bytes(self) -> int:
        """All that was kept."""
        return sum(self.seen.values())

    def pack(self, tensor: Tensor) -> Tensor:
        """See a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        """Return it as it is."""
        return tensor


def in_parallel(before: Sequence[Spent], apart: Sequence[Spent], after: Sequence[Spent]) -> dict[str, Any]:
    """Return operations and seconds one after another, and on the critical path of enough machines."""
    stages = (*before, *apart, *after)
    critical = {
        what: sum(getattr(each, what) for each in (*before, *after))
        + max((getattr(each, what) for each in apart), default=0)
        for what in ("flops", "seconds")
    }
    return {
        "flops": {"sequential": sum(each.flops for each in stages), "critical_path": critical["flops"]},
        "seconds": {
            "sequential": round(sum(each.seconds for each in stages), 2),
            "critical_path": round(critical["seconds"], 2),
        },
        "peak_memory_bytes": max((each.peak_memory for each in stages), default=0) or None,
    }
