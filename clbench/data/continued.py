"""Put a stream behind those that were learnt before, as the tasks of one: what a learner learns on from.

Classes that are known by their names keep their numbers, new ones come behind them. Of an earlier stream that
is there, the tasks are what they were; of one that is not, the tasks have their classes and no images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from clbench.data.fitting import fitted
from clbench.data.history import History
from clbench.data.joined_images import AbsentImages, Images, joined_images
from clbench.data.samples import Samples
from clbench.data.stored import Stored
from clbench.data.tasks import Task, TaskStream


def without_images(history: History, images: Images | None = None) -> list[Task]:
    """Return the tasks of a history with their classes and no image of the array, if there is one."""
    if images is None:
        images = np.zeros((0, history.height, history.width, 3), np.uint8)
    none = Samples(images, np.zeros(0, np.int64), np.zeros(0, np.int64))
    tasks: list[Task] = []
    met: set[int] = set()
    for index, classes in enumerate(history.tasks):
        new = [number for number in classes if number not in met]
        met.update(classes)
        tasks.append(Task(index, classes, new, none, none, none))
    return tasks


def continued(
    history: History,
    earlier: Sequence[TaskStream | None],
    new: TaskStream,
    remembered: Callable[[], Iterable[Stored]] = tuple,
) -> TaskStream:
    """Return the tasks of a history, and those of a stream behind them.

    Args:
        history: What was learnt before.
        earlier: Its streams where they are there, each as it was cut then.
        new: What is to be learnt now.
        remembered: What memories hold of the images that are not there.
    """
    size = history.height, history.width
    parts: list[Images | AbsentImages] = []
    first_rows: list[int] = []
    for chapter, stream in zip(history.chapters, earlier, strict=True):
        first_rows.append(sum(map(len, parts)))
        absent = AbsentImages(chapter.num_rows, *size, first_rows[-1], remembered)
        parts.append(absent if stream is None else stream.tasks[0].train.images)
    first_rows.append(sum(map(len, parts)))
    images = joined_images([*parts, fitted(new.tasks[0].train.images, size)])

    names = [*history.class_names]
    tasks = without_images(history, images)
    begun = 0
    for chapter, stream, first_row in zip(history.chapters, earlier, first_rows, strict=False):
        if stream is not None:
            number = _numbers(stream, names)
            for own in stream.tasks[: chapter.num_tasks]:
                index = begun + own.index
                tasks[index] = _moved(own, images, first_row, number, tasks[index])
        begun += chapter.num_tasks
    num_known = len(names)
    names += [name for name in new.class_names if name not in names]
    number = _numbers(new, names)
    met = set(range(num_known))
    for own in new.tasks:
        classes = sorted(number[own.classes].tolist())
        task = replace(
            own, index=len(tasks), classes=classes, new_classes=[c for c in classes if c not in met]
        )
        met.update(classes)
        tasks.append(_moved(own, images, first_rows[-1], number, task))
    return replace(
        new,
        tasks=tasks,
        class_order=list(range(len(names))),
        class_names=names,
        scenario=history.scenario,
        domain_names=(),
    )


def _numbers(stream: TaskStream, names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return what each class of a stream is numbered in the whole; -1: it was never learnt."""
    return np.array([names.index(name) if name in names else -1 for name in stream.class_names], np.int64)


def _moved(
    own: Task,
    images: Images,
    first_row: int,
    number: np.ndarray[tuple[int], np.dtype[np.int64]],
    task: Task,
) -> Task:
    """Return a task with its own images as rows and classes of the whole."""

    def moved(part: Samples) -> Samples:
        return Samples(images, part.rows + first_row, number[part.labels])

    return replace(task, train=moved(own.train), validation=moved(own.validation), test=moved(own.test))
