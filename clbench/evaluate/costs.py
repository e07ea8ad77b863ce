"""Count what a strategy costs: parameters, stored bytes, and the time of each phase of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from clbench.kinds import KINDS, kinds_of
from clbench.quant.packed import packed_state

if TYPE_CHECKING:
    from torch import Tensor, nn


def count_parameters(backbone: nn.Module, parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Count the scalars in parameters of a backbone and of a strategy's parts, each parameter once.

    ``trainable`` are those of the parts that require a gradient; ``added`` are all of the parts that are not
    the backbone's, an averaged copy and frozen heads of earlier tasks included; buffers are not parameters.
    """
    in_backbone = {id(parameter): parameter for parameter in backbone.parameters()}
    in_parts = {id(parameter): parameter for part in parts.values() for parameter in part.parameters()}
    size = sum(parameter.numel() for parameter in in_backbone.values())
    added = sum(parameter.numel() for key, parameter in in_parts.items() if key not in in_backbone)
    return {
        "total": size + added,
        "trainable": sum(parameter.numel() for parameter in in_parts.values() if parameter.requires_grad),
        "added": added,
        "backbone": size,
    }


def stored_bytes(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the bytes that each part keeps between tasks, and their "total".

    Counted is the memory behind the tensors of ``state_dict``; what two tensors share is counted once, for
    the part that comes first.
    """
    return _bytes({kind: part.state_dict() for kind, part in parts.items()})


def bytes_by_kind(parts: Mapping[str, nn.Module], *, packed: bool = False) -> dict[str, int]:
    """Return the same bytes by what they are kept for, and the "model-delta".

    The kinds are those of ``clbench.kinds``; the model delta, all but exemplars and what is known to nobody
    else, is what has to be added to the backbone's own weights to predict.
    """
    states: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for part_name, part in parts.items():
        state = packed_state(part) if packed else part.state_dict()
        for name, kind in kinds_of(part, state).items():
            states[kind][f"{part_name}.{name}"] = state[name]
    sizes = _bytes(states)
    delta = sum(sizes[kind] for kind in ("modules", "head", "prototypes", "covariances"))
    return {**sizes, "model-delta": delta}


def packed_bytes(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the same with every layer that quantises packed: enough to predict, not to train further."""
    return _bytes({kind: packed_state(part) for kind, part in parts.items()})


def _bytes(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, int]:
    counted: set[tuple[str, int]] = set()
    sizes = {}
    for kind, state in states.items():
        sizes[kind] = 0
        for tensor in state.values():
            storage = tensor.untyped_storage()
            place = (str(tensor.device), storage.data_ptr())
            if place not in counted:
                counted.add(place)
                sizes[kind] += storage.nbytes()
    return {**sizes, "total": sum(sizes.values())}


@dataclass
class Spent:
    """What a phase has taken so far."""

    seconds: float = 0.0  # of wall time
    cpu_seconds: float = 0.0  # of this process, all its threads
    images: int = 0

    @property
    def images_per_second(self) -> float | None:
        """Images a second of wall time; None for a phase that handles no images."""
        return self.images / self.seconds if self.images and self.seconds else None


class PhaseClock:
    """Add up time and images by phase: "train", "evaluate", "encode", "checkpoint".

    What a phase inside another takes is its own and not the other's. The clock never waits for an
    accelerator. Kernels still running when a phase ends fall to the next one, so the last block of a phase is
    to read a result, as the loop does once an epoch.
    """

    def __init__(self) -> None:
        """Start with nothing spent."""
        self.phases: dict[str, Spent] = {}
        self.around: list[str] = []  # the phases that the current block is in, outermost first

    @contextmanager
    def phase(self, name: str, images: int = 0) -> Iterator[None]:
        """Add what the block takes to a phase; the images only if it ends without an error."""
        spent = self.phases.setdefault(name, Spent())
        wall, cpu = time.perf_counter(), time.process_time()
        self.around.append(name)
        try:
            yield
            spent.images += images
        finally:
            self.around.pop()
            seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            spent.seconds += seconds
            spent.cpu_seconds += cpu_seconds
            if self.around:
                outer = self.phases[self.around[-1]]
                outer.seconds -= seconds
                outer.cpu_seconds -= cpu_seconds

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return the sums as plain numbers, for a checkpoint."""
        return {name: asdict(spent) for name, spent in self.phases.items()}

    @classmethod
    def from_dict(cls, phases: Mapping[str, Mapping[str, float]]) -> PhaseClock:
        """Return a clock that goes on from the sums that ``to_dict`` gave."""
        clock = cls()
        for name, spent in phases.items():
            clock.phases[name] = Spent(spent["seconds"], spent["cpu_seconds"], int(spent["images"]))
        return clock
