"""Read the spellings of a class order and of a number of tasks, and cut the classes accordingly.

Spellings of the number of tasks: ``10``, ``tasks=10``, ``10 tasks`` (where the division leaves a rest, the
first tasks take one class more, as in FACIL), ``B50-Inc10`` (50 classes, then ten a task; ``B0``: ten from
the start; a rest makes a smaller last task, as in PyCIL), and ``stream`` (the collection's own tasks).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clbench.data.tasks import Source
from clbench.errors import UserError
from clbench.registry import did_you_mean
from clbench.seeds import Seeds

OWN = "stream"  # spells the collection's own tasks
EQUAL = re.compile(r"(?:tasks\s*=\s*)?(\d+)(?:\s*tasks?)?", re.IGNORECASE)
BASE_AND_INCREMENT = re.compile(r"B\s*(\d+)[\s_-]*Inc\s*(\d+)", re.IGNORECASE)
LAE_SHUFFLES = {"lae-2": 0, "lae-3": 1}  # the seeds of LAE's second and third order


class ProtocolError(UserError, ValueError):
    """A way of cutting that a collection does not allow."""


@dataclass(frozen=True)
class ClassCut:
    """The classes in the order in which they are met, and how many of them each task brings."""

    order: list[int]  # the collection's own class numbers
    sizes: list[int]  # classes a task

    @property
    def num_tasks(self) -> int:
        """The number of tasks."""
        return len(self.sizes)

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """The place of each class in the order: (C,)."""
        return np.argsort(self.order)

    @cached_property
    def home(self) -> NDArray[np.int64]:
        """The task of each class: (C,)."""
        return np.repeat(np.arange(self.num_tasks), self.sizes)[self.rank]


def cut_classes(tasks: str, order: str, source: Source, seeds: Seeds) -> ClassCut:
    """Return the cut that the two spellings ask for."""
    num_classes = len(source.class_names)
    if tasks.strip().lower() != OWN:
        return ClassCut(class_order(order, num_classes, seeds), task_sizes(tasks, num_classes))
    if source.tasks is None:
        raise ProtocolError("stream.tasks: this collection defines no tasks; write a number of tasks instead")
    if order != "natural":
        raise ProtocolError(
            f"stream.order: {order!r} needs a number of tasks; with stream.tasks=stream the order is"
            " the collection's own"
        )
    classes = [number for task in source.tasks for number in task]
    if sorted(classes) != list(range(num_classes)):
        raise ProtocolError("stream.tasks: a class is in several of the collection's tasks, or in none")
    return ClassCut(classes, [len(task) for task in source.tasks])


def class_order(order: str, num_classes: int, seeds: Seeds) -> list[int]:
    """Return the collection's class numbers in the order in which they are met.

    ``natural`` and ``lae-1``: as numbered; ``lae-2``, ``lae-3``: Python's shuffle with seed 0, 1; a number
    such as PyCIL's ``1993``: numpy's legacy permutation with that seed; ``random``: drawn by the run's seed.
    """
    spelling = order.strip().lower()
    if spelling in ("natural", "lae-1"):
        return list(range(num_classes))
    if spelling in LAE_SHUFFLES:
        classes = list(range(num_classes))
        random.Random(LAE_SHUFFLES[spelling]).shuffle(classes)
        return classes
    if spelling == "random":
        return [int(number) for number in seeds.numpy("class-order").permutation(num_classes)]
    if re.fullmatch(r"\d+", spelling) and int(spelling) < 2**32:
        return [int(number) for number in np.random.RandomState(int(spelling)).permutation(num_classes)]
    near = did_you_mean(spelling, ["natural", "random", "lae-1", *LAE_SHUFFLES])
    raise ProtocolError(
        f"stream.order: no class order {order!r}{near}"
        " (allowed: natural, random, a seed below 2**32 such as 1993, lae-1, lae-2, lae-3)"
    )


def task_sizes(tasks: str, num_classes: int) -> list[int]:
    """Return the number of classes of each task."""
    if equal := EQUAL.fullmatch(tasks.strip()):
        num_tasks = int(equal[1])
        if not 1 <= num_tasks <= num_classes:
            raise ProtocolError(
                f"stream.tasks: {num_classes} classes cannot make {num_tasks} tasks"
                f" (allowed: 1 to {num_classes})"
            )
        size, rest = divmod(num_classes, num_tasks)
        return [size + (index < rest) for index in range(num_tasks)]
    if spelt := BASE_AND_INCREMENT.fullmatch(tasks.strip()):
        base, increment = int(spelt[1]), int(spelt[2])
        if base > num_classes or not 1 <= increment <= num_classes:
            raise ProtocolError(
                f"stream.tasks: {tasks!r} does not fit {num_classes} classes (allowed: B0 to B{num_classes},"
                f" Inc1 to Inc{num_classes})"
            )
        starts = range(base, num_classes, increment)
        return [base] * (base > 0) + [min(increment, num_classes - start) for start in starts]
    raise ProtocolError(
        f"stream.tasks: {tasks!r} is no protocol (allowed: a number of tasks such as 10, B0-Inc10, B50-Inc10,"
        " or stream where the collection defines its tasks)"
    )
