"""Count what a strategy costs: parameters, stored bytes, and the time of each phase of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from clbench.kinds import KINDS, filled, kinds_of
from clbench.quant.packed import packed_state
from clbench.quant.parts.low_bit_weight import LowBitWeight

if TYPE_CHECKING:
    from torch import Tensor, nn


def count_parameters(backbone: nn.Module, parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Count the scalars in parameters of a backbone and of a strategy's parts, each parameter once.

    ``trainable`` are those of the parts that require a gradient; ``added`` are all of the parts that are not
    the backbone's, an averaged copy and frozen heads of earlier tasks included; buffers are not parameters,
    but for weights that are held in few bits.
    """
    in_backbone = {id(parameter): parameter for parameter in backbone.parameters()}
    low_bit = sum(part.num_values for part in backbone.modules() if isinstance(part, LowBitWeight))
    in_parts = {id(parameter): parameter for part in parts.values() for parameter in part.parameters()}
    size = low_bit + sum(parameter.numel() for parameter in in_backbone.values())
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
    the part that comes first. Of a memory the samples are counted that it holds, see ``capacity_bytes``.
    """
    held = {kind: filled(part) for kind, part in parts.items()}
    return _bytes({kind: part.state_dict() for kind, part in parts.items()}, held)


def capacity_bytes(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the same as if every memory were full."""
    return _bytes({kind: part.state_dict() for kind, part in parts.items()})


def bytes_by_kind(parts: Mapping[str, nn.Module], *, packed: bool = False) -> dict[str, int]:
    """Return the same bytes by what they are kept for, and the "model-delta".

    The kinds are those of ``clbench.kinds``; the model delta, all but exemplars and what is known to nobody
    else, is what has to be added to the backbone's own weights to predict.
    """
    states: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    held: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for part_name, part in parts.items():
        state, rows = packed_state(part) if packed else part.state_dict(), filled(part)
        for name, kind in kinds_of(part, state).items():
            states[kind][f"{part_name}.{name}"] = state[name]
            held[kind] |= {f"{part_name}.{name}": rows[name]} if name in rows else {}
    sizes = _bytes(states, held)
    delta = sum(sizes[kind] for kind in ("modules", "head", "prototypes", "covariances"))
    return {**sizes, "model-delta": delta}


def packed_bytes(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the same with every layer that quantises packed: enough to predict, not to train further."""
    held = {kind: filled(part) for kind, part in parts.items()}
    return _bytes({kind: packed_state(part) for kind, part in parts.items()}, held)


def _bytes(
    states: Mapping[str, Mapping[str, Tensor]], held: Mapping[str, Mapping[str, Tensor]] | None = None
) -> dict[str, int]:
    """Add up what lies behind tensors, each place once; of some only the rows that are ``held``."""
    counted: set[tuple[str, int]] = set()
    sizes = {}
    for kind, state in states.items():
        sizes[kind] = 0
        rows = held[kind] if held else {}
        for name, tensor in state.items():
            storage = tensor.untyped_storage()
            place = (str(tensor.device), storage.data_ptr())
            if place not in counted:
                counted.add(place)
                sizes[kind] += rows[name].nbytes if name in rows else storage.nbytes()
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

    What a phase inside another takes is its own and not the other's, so that all of them add up to the time
    of the outermost. The clock never waits for an accelerator. Kernels still running when a phase ends fall
    to the next one, so the last block of a phase is to read a result, as the loop does once an epoch.
    """

    def __init__(self) -> None:
        """Start with nothing spent."""
        self.phases: dict[str, Spent] = {}
        self.around: list[str] = []  # the phases that the current block is in, outermost first
        self._since = (0.0, 0.0)  # wall and CPU time up to which the current phase has been credited

    @contextmanager
    def phase(self, name: str, images: int = 0) -> Iterator[None]:
        """Add what the block takes to a phase; the images only if it ends without an error."""
        self.credit()
        self.phases.setdefault(name, Spent())
        self.around.append(name)
        try:
            yield
            self.phases[name].images += images
        finally:
            self.credit()
            self.around.pop()

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return the sums up to now as plain numbers, for a checkpoint."""
        self.credit()
        return {name: asdict(spent) for name, spent in self.phases.items()}

    def add(self, phases: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from the sums that ``to_dict`` gave: what has been spent here since comes on top of them."""
        for name, spent in phases.items():
            here = self.phases.setdefault(name, Spent())
            here.seconds += spent["seconds"]
            here.cpu_seconds += spent["cpu_seconds"]
            here.images += int(spent["images"])

    def credit(self) -> None:
        """Credit the time since the last call to the phase that the current block is in, if to any."""
        now = time.perf_counter(), time.process_time()
        if self.around:
            spent = self.phases[self.around[-1]]
            spent.seconds += now[0] - self._since[0]
            spent.cpu_seconds += now[1] - self._since[1]
        self._since = now
