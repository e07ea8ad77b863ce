"""Read the spellings of a class order and of a number of tasks, and cut the classes accordingly.

Spellings of the number of tasks: ``10``, ``tasks=10``, ``10 tasks`` (where the division leaves a rest, the
first tasks take one class more, as in FACIL), ``B50-Inc10`` (50 classes, then ten a task; ``B0``: ten from
the start; a rest makes a smaller last task, as in PyCIL), ``2,4,1`` (so many classes in each task), and
``stream`` (the collection's own tasks).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clbench.data.tasks import Source
from clbench.errors import UserError
from clbench.outside.foreign import first_line, read_text
from clbench.registry import did_you_mean
from clbench.seeds import Seeds

OWN = "stream"  # spells the collection's own tasks
EQUAL = re.compile(r"(?:tasks\s*=\s*)?(\d{1,18})(?:\s*tasks?)?", re.IGNORECASE)
BASE_AND_INCREMENT = re.compile(r"B\s*(\d{1,18})[\s_-]*Inc\s*(\d{1,18})", re.IGNORECASE)
LISTED = re.compile(r"\d{1,18}(?:\s*,\s*\d{1,18})+")
FILE, LIST_ENDING = "file:", ".txt"  # by either of which a file of class names is known


def _shuffled(num_classes: int, seed: int) -> list[int]:
    classes = list(range(num_classes))
    random.Random(seed).shuffle(classes)
    return classes


def _permuted(num_classes: int, seed: int) -> list[int]:
    import torch

    order: list[int] = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


# LAE's second and third order, by the number of classes: of CIFAR-100, of ImageNet-R and of DomainNet.
LAE_ORDERS: dict[str, dict[int, Callable[[int], list[int]]]] = {
    name: {
        100: partial(_shuffled, seed=shuffle),
        200: partial(_shuffled, seed=shuffle),
        345: partial(_permuted, seed=permutation),
    }
    for name, shuffle, permutation in (("lae-2", 0, 42), ("lae-3", 1, 36))
}


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
        sizes = task_sizes(tasks, num_classes)
        return ClassCut(class_order(order, source.class_names, seeds), sizes)
    if source.tasks is None:
        raise ProtocolError(
            "stream.tasks: this collection defines no tasks; write a number of tasks instead,"
            f" as in stream.tasks={min(10, num_classes)}"
        )
    if order != "natural":
        raise ProtocolError(
            f"stream.order: {order!r} needs a number of tasks; with stream.tasks=stream the order is"
            " the collection's own"
        )
    classes = [number for task in source.tasks for number in task]
    if sorted(classes) != list(range(num_classes)):
        raise ProtocolError("stream.tasks: a class is in several of the collection's tasks, or in none")
    return ClassCut(classes, [len(task) for task in source.tasks])


def class_order(order: str, class_names: Sequence[str], seeds: Seeds) -> list[int]:
    """Return the collection's class numbers in the order in which they are met.

    ``natural`` and ``lae-1``: as numbered; ``lae-2``, ``lae-3``: LAE's own for 100, 200 and 345 classes; a
    number such as PyCIL's ``1993``: numpy's legacy permutation with that seed; ``random``: drawn by the run's
    seed; ``2,0,1``: names of the classes, or their numbers from 0; ``file:PATH``, or a path that ends in
    ``.txt``: the same, one a line.
    """
    num_classes, spelling = len(class_names), order.strip().lower()
    if spelling.startswith(FILE) or spelling.endswith(LIST_ENDING):
        return _listed_order(_lines(order.strip()), class_names, order)
    if "," in spelling:
        return _listed_order([word.strip() for word in order.split(",")], class_names, order)
    if spelling in ("natural", "lae-1"):
        return list(range(num_classes))
    if spelling in LAE_ORDERS:
        return _lae_order(spelling, num_classes)
    if spelling == "random":
        return [int(number) for number in seeds.numpy("class-order").permutation(num_classes)]
    if re.fullmatch(r"\d{1,10}", spelling) and int(spelling) < 2**32:
        return [int(number) for number in np.random.RandomState(int(spelling)).permutation(num_classes)]
    near = did_you_mean(spelling, ["natural", "random", "lae-1", *LAE_ORDERS])
    raise ProtocolError(
        f"stream.order: no class order {order!r}{near} (allowed: natural, random, a seed below 2**32 such as"
        " 1993, lae-1, lae-2, lae-3, classes such as 2,0,1, or file:PATH with one a line)"
    )


def task_sizes(tasks: str, num_classes: int) -> list[int]:
    """Return the number of classes of each task."""
    if equal := EQUAL.fullmatch(tasks.strip()):
        num_tasks = int(equal[1])
        if not 1 <= num_tasks <= num_classes:
            raise ProtocolError(
                f"stream.tasks: {num_classes} classes cannot make {num_tasks} tasks (allowed: 1 to"
                f" {num_classes}); try stream.tasks={num_classes if num_tasks else min(10, num_classes)}"
            )
        size, rest = divmod(num_classes, num_tasks)
        return [size + (index < rest) for index in range(num_tasks)]
    if spelt := BASE_AND_INCREMENT.fullmatch(tasks.strip()):
        base, increment = int(spelt[1]), int(spelt[2])
        if base > num_classes or not 1 <= increment <= num_classes:
            fitting = f"B{min(base, num_classes // 2)}-Inc{min(max(increment, 1), (num_classes + 1) // 2)}"
            raise ProtocolError(
                f"stream.tasks: {tasks!r} does not fit {num_classes} classes (allowed: B0 to B{num_classes},"
                f" Inc1 to Inc{num_classes}); try stream.tasks={fitting}"
            )
        starts = range(base, num_classes, increment)
        return [base] * (base > 0) + [min(increment, num_classes - start) for start in starts]
    if LISTED.fullmatch(tasks.strip()):
        return _listed_sizes(tasks, num_classes)
    raise ProtocolError(
        f"stream.tasks: {tasks!r} is no protocol (allowed: a number of tasks such as 10, B0-Inc10, B50-Inc10,"
        " classes a task such as 2,4,1, or stream where the collection defines its tasks)"
    )


def _listed_sizes(tasks: str, num_classes: int) -> list[int]:
    sizes = [int(size) for size in tasks.split(",")]
    if 0 in sizes:
        raise ProtocolError(
            f"stream.tasks: {tasks} leaves a task without a class (allowed: 1 or more in each)"
        )
    if (total := sum(sizes)) != num_classes:
        rest = num_classes - sum(sizes[:-1])
        fitting = ",".join(map(str, [*sizes[:-1], rest])) if rest > 0 else str(min(len(sizes), num_classes))
        raise ProtocolError(
            f"stream.tasks: {tasks} add up to {total} classes, and there are {num_classes};"
            f" try stream.tasks={fitting}"
        )
    return sizes


def _lae_order(spelling: str, num_classes: int) -> list[int]:
    orders = LAE_ORDERS[spelling]
    if num_classes not in orders:
        raise ProtocolError(
            f"stream.order: {spelling} is an order of 100 (CIFAR-100), 200 (ImageNet-R) or 345 classes"
            f" (DomainNet), and there are {num_classes}; try random, or a seed such as 1993"
        )
    return orders[num_classes](num_classes)


def _lines(order: str) -> list[str]:
    """Return the lines of a file of classes that are no blank ones."""
    path = Path(order[len(FILE) :] if order.lower().startswith(FILE) else order).expanduser()
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ProtocolError(f"stream.order: cannot read {path}: {first_line(error).lower()}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _listed_order(listed: Sequence[str], class_names: Sequence[str], order: str) -> list[int]:
    """Return the numbers of classes that are given by their names or, where these are none, by number."""
    number = {name: index for index, name in enumerate(class_names)}
    if not all(each in number for each in listed) and all(re.fullmatch(r"\d{1,9}", each) for each in listed):
        number = {str(index): index for index in range(len(class_names))}
        listed = [str(int(each)) for each in listed]
    told, last = f"stream.order: {order}", len(class_names) - 1
    met: set[str] = set()
    for each in listed:
        if each not in number:
            near = did_you_mean(each, number)
            raise ProtocolError(f"{told}: there is no class {each!r}{near} (allowed: names, or 0 to {last})")
        if each in met:
            raise ProtocolError(f"{told} names the class {each!r} twice")
        met.add(each)
    if len(met) < len(class_names):
        missing = next((name for name in number if name not in met), "one of two of the same name")
        raise ProtocolError(f"{told} names {len(met)} of {len(class_names)} classes; {missing!r} is missing")
    return [number[each] for each in listed]
