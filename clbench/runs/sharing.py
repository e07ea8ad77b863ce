"""Do one run in several processes: the first keeps the record, the others share its work.

Every process makes the same components of the same spec and takes the same steps; the images of each batch
are shared out inside the backbone, see ``clbench.backbones.ranks``. What the first one does alone, such as
predicting in other forms, it computes alone, while the others wait.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch

from clbench import petl, strategies
from clbench.backbones.ranks import Ranks
from clbench.data.history import History
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.evaluate.meter import Meter
from clbench.outside.mistakes import explained
from clbench.records.progress import Progress
from clbench.records.spec import RunSpec
from clbench.runs.assembly import assembled
from clbench.runs.checkpoint import Checkpoint, Ended
from clbench.runs.parts import Parts, prepare
from clbench.version import __version__

Given = ParamSpec("Given")
Result = TypeVar("Result")


class AloneError(UserError, ValueError):
    """A run that one process has to do alone."""


@dataclass(frozen=True)
class Begun:
    """What a run is made of, and begins with."""

    spec: RunSpec
    before: History | None = None  # what a run that learns on had learnt
    files: Mapping[str, bytes] = field(default_factory=dict)  # of its record, that are there already
    weights: str = ""  # digest of those that it was begun with


@dataclass(frozen=True)
class From:
    """Where a run goes on: its state, and what was written of each task that has ended."""

    checkpoint: Checkpoint | None = None
    ended: Sequence[Ended] = ()


def prepared(begun: Begun, places: Places, ranks: Ranks | None) -> Parts:
    """Make the components of a run; of several processes each makes its own, and all are alike."""
    if ranks is None:
        return prepare(begun.spec, places, begun.before, begun.files, weights=begun.weights)
    return _prepared(ranks.from_first(begun), places, ranks)


def follow(ranks: Ranks, places: Places) -> None:
    """Do the work of a process that is not the first of a run: it keeps nothing and tells nobody."""
    begun: Begun = ranks.from_first(None)
    parts = _prepared(begun, places, ranks)
    start: From = ranks.from_first(None)
    meter = Meter(parts.device)
    meter.whole, meter.in_parts = ranks.whole, ranks.in_parts
    loop = assembled(parts, begun.spec.run, places, Progress(), meter)
    loop.save = lambda state: agree_on(ranks, state)
    loop.load_ended = lambda num_tasks: list(start.ended[:num_tasks])
    with explained(parts.strategy, petl.get(begun.spec.petl.name)):
        loop.run(start.checkpoint)


def agree_on(ranks: Ranks | None, state: Checkpoint) -> None:
    """Raise ApartError if what the processes of a run have learnt is not equal, bit for bit."""
    if ranks is not None:
        total = hashlib.sha256()
        for name, tensor in sorted(state.tensors.items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        ranks.agree("what was learnt", total.hexdigest())


def alone(ranks: Ranks | None, do: Callable[Given, Result]) -> Callable[Given, Result]:
    """Return the same function, computed by the first of several processes without the others."""

    def done(*arguments: Given.args, **options: Given.kwargs) -> Result:
        with ranks.alone() if ranks else nullcontext():
            return do(*arguments, **options)

    return done


def told_of(ranks: Ranks | None) -> list[str]:
    """Return the line that says in how many processes a run is computed."""
    if ranks is None:
        return []
    return [f"shared out over {ranks.number} processes; time, memory and energy are those of the first"]


def _prepared(begun: Begun, places: Places, ranks: Ranks) -> Parts:
    parts: Parts = ranks.together(lambda: _shareable(begun, places))
    ranks.agree("what the run is made of", _made_of(begun.spec, parts))
    parts.backbone.ranks = ranks
    return parts


def _shareable(begun: Begun, places: Places) -> Parts:
    """Make the components, unless one process has to be alone with them."""
    spec = begun.spec
    if ":" in spec.run.device:
        kind = spec.run.device.partition(":")[0]
        raise AloneError(
            f"run.device={spec.run.device} is one device; of several processes each takes its own of {kind}:"
            f" --device {kind}"
        )
    if reason := strategies.get(spec.strategy.name).alone:
        raise AloneError(
            f"strategy {spec.strategy.name} cannot share a run among processes: {reason};"
            " run it without torchrun"
        )
    return prepare(spec, places, begun.before, begun.files, weights=begun.weights)


def _made_of(spec: RunSpec, parts: Parts) -> dict[str, str]:
    """Return what must be equal in all processes for their numbers to be."""
    return {"spec": spec.id, **parts.hashes(), "torch": torch.__version__, "clbench": __version__}
