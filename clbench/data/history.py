"""Say what has been learnt so far, without a picture of it: what a learner has to know to go on.

A run learns one stream. A learner that learns on has a history of several, oldest first; classes are numbered
as they were met, whichever stream they came in, and so are the rows of the images: those of a later stream
come behind all those of the earlier ones, whether these are still there or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clbench.data.tasks import TaskStream
from clbench.options import Value


@dataclass(frozen=True)
class Chapter:
    """One stream of those that were learnt."""

    stream: dict[str, Value]  # its section of the run's spec
    seed: int
    digest: str  # of the stream as it was met, see ``TaskStream.digest``
    num_rows: int  # images of its collection
    num_tasks: int  # that were learnt
    is_findable: bool = True  # whether it may be looked for: a bundle's author may have put code where it is


@dataclass(frozen=True)
class History:
    """The tasks so far, and what is the same for all of them."""

    chapters: list[Chapter]
    tasks: list[list[int]]  # the classes of each task
    class_names: list[str]  # in the order in which they were met
    height: int  # pixels of the images as they are stored
    width: int
    scenario: str
    augment: str
    has_boundaries: bool
    is_ordered: bool
    micro_batch: int

    @property
    def num_rows(self) -> int:
        """The number of images of all collections."""
        return sum(chapter.num_rows for chapter in self.chapters)

    def first(self, num_tasks: int) -> History:
        """Return the history of the first so many tasks."""
        tasks = self.tasks[:num_tasks]
        num_classes = 1 + max(number for task in tasks for number in task)
        chapters, begun = [], 0
        for chapter in self.chapters:
            learnt = min(chapter.num_tasks, num_tasks - begun)
            begun += chapter.num_tasks
            if learnt > 0:
                chapters.append(replace(chapter, num_tasks=learnt))
        return replace(self, chapters=chapters, tasks=tasks, class_names=self.class_names[:num_classes])

    def before_last(self) -> History:
        """Return the history up to the last stream, which is the one that a run is about."""
        return self.first(sum(chapter.num_tasks for chapter in self.chapters[:-1]))


def chapter_of(stream: TaskStream, section: dict[str, Value], seed: int) -> Chapter:
    """Return the chapter of all tasks of a stream, which a section of a spec and a seed have made."""
    return Chapter(section, seed, stream.digest, len(stream.tasks[0].train.images), len(stream.tasks))


def history_of(stream: TaskStream, chapters: Sequence[Chapter]) -> History:
    """Return the history of whoever has learnt all tasks of a stream, which come from these."""
    _, height, width = stream.tasks[0].train.image_shape
    return History(
        chapters=[*chapters],
        tasks=[task.classes for task in stream.tasks],
        class_names=[*stream.class_names],
        height=height,
        width=width,
        scenario=stream.scenario,
        augment=stream.augment,
        has_boundaries=stream.has_boundaries,
        is_ordered=stream.is_ordered,
        micro_batch=stream.micro_batch,
    )
