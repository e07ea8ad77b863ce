"""Hold a run to a number of bytes that its strategy may keep between tasks.

What is counted is what the costs of a record call stored bytes: modules, heads, prototypes, covariances,
exemplars, importances; of a memory the places that are filled. Before anything is learnt the stream is gone
through once in small, with two images of each class and one epoch: so it is known what all but the exemplars
will take, and what one exemplar takes. A memory gets what is left; where that is less than one of each class,
the stream is gone through again with it, for some strategies cannot do with so few. What does not fit is
refused, then or when a task has ended.

By convention a strategy's option ``memory_size`` is the number of exemplars that it may keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clbench.data.samples import Samples
from clbench.data.tasks import Places, Task, TaskStream
from clbench.errors import UserError
from clbench.evaluate.costs import bytes_by_kind, capacity_bytes, stored_bytes
from clbench.evaluate.meter import Meter
from clbench.kinds import KINDS
from clbench.records.progress import Progress
from clbench.records.sizes import bytes_of
from clbench.records.spec import MEMORY, Part, RunSpec
from clbench.report.units import quantity
from clbench.runs.assembly import assembled
from clbench.runs.evaluator import Columns
from clbench.runs.parts import prepare
from clbench.strategies import Strategy

IMAGES = 2  # of each class, with which the stream is gone through
ROOM = 2000  # exemplars that a memory may hold meanwhile


class BudgetError(UserError, ValueError):
    """A strategy that keeps more bytes than it may."""

    options_are_at_fault = True


class NoRoomError(BudgetError):
    """A memory that has no room for a single image."""


@dataclass(frozen=True)
class InSmall:
    """What a strategy keeps besides exemplars when it keeps most, and what there is to keep."""

    besides: Mapping[str, int]  # bytes by kind, and their "total"
    exemplar: int  # bytes of one; 0: there is no memory whose size can be chosen
    num_classes: int
    num_images: int  # in all training parts


def fitted(spec: RunSpec, places: Places) -> tuple[RunSpec, list[str]]:
    """Return the spec with a memory that fits its budget, and what a user should know of that.

    BudgetError in one line if the strategy keeps more than the budget without any exemplar, NoRoomError if
    there is no room for a single one, and the strategy's own UserError if it cannot do with so few.
    """
    if not spec.run.budget:
        return spec, []
    found = _gone_through(spec, places, ROOM)
    name, asked, besides = spec.strategy.name, f"run.budget={spec.run.budget}", _told(found.besides)
    left = bytes_of(spec.run.budget) - found.besides["total"]
    if left < 0:
        raise BudgetError(f"strategy {name} keeps {besides}, over {asked}")
    if not found.exemplar:
        return spec, [f"budget {spec.run.budget}: {name} keeps {besides}"]
    room = min(left // found.exemplar, found.num_images)
    each = quantity(found.exemplar, unit="B")
    if not room:
        raise NoRoomError(
            f"{asked} leaves strategy {name} no room for an exemplar of {each} beside {besides}"
        )
    few = room < found.num_classes
    if few:
        _gone_through(spec, places, room)
    told = f"budget {spec.run.budget}: {room} exemplar{'s' * (room > 1)} of {each} beside {besides}"
    return with_memory(spec, room), [f"{told}; there are {found.num_classes} classes" if few else told]


def refuse_over(spec: RunSpec, kept: Mapping[str, int], num_tasks: int) -> None:
    """Raise BudgetError in one line if a strategy keeps more than its budget after so many tasks.

    ``kept`` are its stored bytes by kind, and their "total".
    """
    if spec.run.budget and kept["total"] > bytes_of(spec.run.budget):
        raise BudgetError(
            f"strategy {spec.strategy.name} keeps {_told(kept)} after task {num_tasks},"
            f" over run.budget={spec.run.budget}"
        )


def with_memory(spec: RunSpec, size: int) -> RunSpec:
    """Return the spec with room for so many exemplars."""
    options = {**spec.strategy.options, MEMORY: size}
    return spec.model_copy(update={"strategy": Part(name=spec.strategy.name, options=options)})


def _told(kept: Mapping[str, int]) -> str:
    """Write bytes and what they are kept for: ``312 kB (modules 300 kB, head 12 kB)``."""
    kinds = ", ".join(f"{kind} {quantity(kept[kind], unit='B')}" for kind in KINDS if kept.get(kind))
    return f"{quantity(kept['total'], unit='B')}{f' ({kinds})' if kinds else ''}"


def _gone_through(spec: RunSpec, places: Places, room: int) -> InSmall:
    """Go through the stream in small, and see what the strategy keeps after each task.

    Its memory, if its size can be chosen, has room for so many exemplars.
    """
    quick = {"budget": "", "exact": True, "eval_every": 0, "eval_ahead": False, "step_cost": 1}
    run = spec.run.model_copy(update=quick)
    small = spec.model_copy(update={"run": run, "variants": ()})
    has_memory = MEMORY in small.strategy.options
    parts = prepare(with_memory(small, room) if has_memory else small, places)
    parts.strategy.epochs = 1
    meter, stream = Meter(parts.device), parts.stream
    loop = assembled(replace(parts, stream=_in_small(stream)), run, places, Progress(), meter)
    kept: list[tuple[Mapping[str, int], int]] = []

    def look(task: int, columns: Columns | None) -> list[float]:
        kept.append(_kept(parts.strategy))
        return []

    loop.log = look
    loop.run()
    return InSmall(
        besides=max((besides for besides, _ in kept), key=lambda each: each["total"]),
        exemplar=max(exemplar for _, exemplar in kept) if has_memory else 0,
        num_classes=len(stream.class_names),
        num_images=sum(len(task.train) for task in stream.tasks),
    )


def _kept(strategy: Strategy) -> tuple[Mapping[str, int], int]:
    """Return the bytes kept now by kind, without exemplars, and what one exemplar takes."""
    parts = strategy.parts()
    by_kind = bytes_by_kind(parts)
    stored, full = stored_bytes(parts)["total"], capacity_bytes(parts)["total"]
    exemplars = by_kind["exemplars"]
    # A memory that has no room before it needs it says nothing of what one more would take. What a memory
    # keeps but once, such as how many it holds, is left over.
    each, once = divmod(full - stored + exemplars, ROOM) if full > stored else (0, 0)
    return {**by_kind, "exemplars": 0, "total": stored - exemplars + once}, each


def _in_small(stream: TaskStream) -> TaskStream:
    """Leave a few images of each class, and a single image to predict: nothing hangs on what comes of it."""
    tasks = [
        replace(task, train=_first_of_each(task), test=task.test.select(slice(int(task.index == 0))))
        for task in stream.tasks
    ]
    return replace(stream, tasks=tasks)


def _first_of_each(task: Task) -> Samples:
    places = [np.flatnonzero(task.train.labels == label)[:IMAGES] for label in task.classes]
    return task.train.select(np.sort(np.concatenate(places)))
