"""Cut a labelled collection into tasks: which classes come when, and which images are held out.

Spellings of the number of tasks: ``10``, ``tasks=10``, ``10 tasks`` (where the division leaves a rest, the
first tasks take one class more, as in FACIL), ``B50-Inc10`` (50 classes, then ten a task; ``B0``: ten from
the start; a rest makes a smaller last task, as in PyCIL), and ``stream`` (the collection's own tasks).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clbench.data.samples import Samples
from clbench.data.transforms import AUGMENTS
from clbench.errors import UserError
from clbench.registry import did_you_mean
from clbench.seeds import Seeds
from clbench.streams import Source, Stream, Task, TaskStream

EQUAL = re.compile(r"(?:tasks\s*=\s*)?(\d+)(?:\s*tasks?)?", re.IGNORECASE)
BASE_AND_INCREMENT = re.compile(r"B\s*(\d+)[\s_-]*Inc\s*(\d+)", re.IGNORECASE)
LAE_SHUFFLES = {"lae-2": 0, "lae-3": 1}  # the seeds of LAE's second and third order
Generator = Callable[[int], np.random.Generator]


class ProtocolError(UserError, ValueError):
    """A way of cutting that a collection does not allow."""


def cut(stream_options: Stream, *, name: str, source: Source, seeds: Seeds) -> TaskStream:
    """Return the tasks that the options ask for; what is drawn for a class depends on no other option.

    Limits are taken first, then the validation part, so that a limit counts both.
    """
    options = stream_options
    _check_labels(source)
    augment = options.augment or options.default_augment
    if augment not in AUGMENTS:
        near = did_you_mean(augment, AUGMENTS)
        raise ProtocolError(
            f"stream.augment: no transform {augment!r}{near} (allowed: {', '.join(AUGMENTS)})"
        )
    order, sizes = _order_and_sizes(options, source, seeds)
    train = limit(source.train, options.train_per_class, lambda c: seeds.numpy("limit-train", c))
    test = limit(source.test, options.test_per_class, lambda c: seeds.numpy("limit-test", c))
    train, validation = hold_out(train, options.validation_rate, lambda c: seeds.numpy("validation", c))
    ends = np.cumsum(sizes)
    parts = [_by_task(part, order, ends) for part in (train, validation, test)]
    tasks = []
    for index, (end, size) in enumerate(zip(ends.tolist(), sizes, strict=True)):
        classes = list(range(end - size, end))
        tasks.append(Task(index, classes, classes, *(part[index] for part in parts)))
    names = [source.class_names[number] for number in order]
    return TaskStream(name=name, tasks=tasks, class_order=order, class_names=names, augment=augment)


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


def limit(samples: Samples, per_class: int, generator: Generator) -> Samples:
    """Keep at most so many samples of each class (0: all), in their old order."""
    if per_class == 0:
        return samples
    return samples.select(_draw(samples.labels, lambda count: min(count, per_class), generator))


def hold_out(samples: Samples, rate: float, generator: Generator) -> tuple[Samples, Samples]:
    """Split off the rounded share of each class, but never its last sample; return the rest and the share."""
    held = _draw(samples.labels, lambda count: min(round(rate * count), count - 1), generator)
    return samples.select(~held), samples.select(held)


def _draw(labels: NDArray[np.int64], number: Callable[[int], int], generator: Generator) -> NDArray[np.bool_]:
    """Mark ``number(count)`` places of each class, drawn by the class's own generator."""
    drawn = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels).tolist():
        places = np.flatnonzero(labels == label)
        drawn[generator(label).permutation(places)[: number(len(places))]] = True
    return drawn


def _order_and_sizes(options: Stream, source: Source, seeds: Seeds) -> tuple[list[int], list[int]]:
    num_classes = len(source.class_names)
    if options.tasks.strip().lower() != "stream":
        return class_order(options.order, num_classes, seeds), task_sizes(options.tasks, num_classes)
    if source.tasks is None:
        raise ProtocolError("stream.tasks: this collection defines no tasks; write a number of tasks instead")
    if options.order != "natural":
        raise ProtocolError(
            f"stream.order: {options.order!r} needs a number of tasks; with stream.tasks=stream the order is"
            " the collection's own"
        )
    order = [number for classes in source.tasks for number in classes]
    if sorted(order) != list(range(num_classes)):
        raise ProtocolError("stream.tasks: a class is in several of the collection's tasks, or in none")
    return order, [len(classes) for classes in source.tasks]


def _by_task(samples: Samples, order: list[int], ends: NDArray[np.int64]) -> list[Samples]:
    """Renumber the labels by the class order, and select each task's samples."""
    labels = np.argsort(order)[samples.labels]
    renumbered = Samples(samples.images, samples.rows, labels)
    task = np.searchsorted(ends, labels, side="right")
    return [renumbered.select(task == index) for index in range(len(ends))]


def _check_labels(source: Source) -> None:
    """Expect labels in range, and images of every class in both parts."""
    num_classes = len(source.class_names)
    for part, labels in (("training", source.train.labels), ("test", source.test.labels)):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            worst = labels.min() if labels.min() < 0 else labels.max()
            raise ProtocolError(
                f"a {part} label is {worst}; {num_classes} classes allow 0 to {num_classes - 1}"
            )
        missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
        if len(missing):
            first = source.class_names[missing[0]]
            raise ProtocolError(
                f"class {first!r} has no {part} image ({len(missing)} of {num_classes} classes have none)"
            )
