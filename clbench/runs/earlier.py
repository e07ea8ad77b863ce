"""Find the streams that were learnt before, for a run that learns on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from clbench import streams
from clbench.data.history import Chapter, History
from clbench.data.stored import Stored
from clbench.data.tasks import Places, TaskStream
from clbench.errors import UserError
from clbench.learning.memory import Memory
from clbench.options import build
from clbench.outside.mistakes import explained
from clbench.records.spec import Part
from clbench.runs.needs import NeedError
from clbench.seeds import Seeds
from clbench.strategies import Strategy


def build_stream(part: Part, places: Places, seeds: Seeds) -> TaskStream:
    """Return the tasks that a spec's stream is cut into."""
    loader = build(streams.get(part.name), "stream", part.options)
    with explained(loader):
        return loader.build(part.name, places, seeds)


def earlier_stream(chapter: Chapter, known: Sequence[str], places: Places) -> TaskStream | None:
    """Return a stream as it was learnt, the classes that were being ``known`` by name.

    None where its images are not there, or are no longer the same.
    """
    if not chapter.is_findable:
        return None
    options = {**chapter.stream}
    name = str(options.pop("name"))
    try:
        stream = build_stream(Part(name=name, options=options), places, Seeds(chapter.seed))
    except UserError:
        return None
    learnt = {number for task in stream.tasks[: chapter.num_tasks] for number in task.classes}
    is_same = stream.digest == chapter.digest and {stream.class_names[number] for number in learnt} <= set(
        known
    )
    return stream if is_same else None


def remembered_by(strategy: Strategy) -> Iterator[Stored]:
    """Yield the pictures that the memories of a strategy hold."""
    for part in strategy.parts().values():
        for memory in part.modules():
            if isinstance(memory, Memory) and not memory.is_empty and memory.items.dtype == torch.uint8:
                yield memory.at(torch.arange(len(memory)))


def refuse_missing_images(
    name: str, strategy: Strategy, history: History, earlier: Sequence[TaskStream | None]
) -> None:
    """Raise NeedError in one line for a strategy that trains on earlier images that are not there."""
    missing = [
        chapter.stream["name"]
        for chapter, stream in zip(history.chapters, earlier, strict=True)
        if stream is None
    ]
    if missing and strategy.revisits:
        raise NeedError(
            f"strategy {name} trains on the images of all tasks, and those of {missing[0]} are not there as"
            " they were; name their folder with --data-dir"
        )


def told(history: History, earlier: Sequence[TaskStream | None]) -> list[str]:
    """Return a line for each earlier stream: which tasks are its, and whether they are tested again."""
    lines, begun = [], 0
    for chapter, stream in zip(history.chapters, earlier, strict=True):
        last = begun + chapter.num_tasks
        which = f"task {last}" if chapter.num_tasks == 1 else f"tasks {begun + 1} to {last}"
        begun = last
        tested = (
            "tested again"
            if stream is not None
            else "not tested again: its images are not there, or no longer the same"
        )
        lines.append(f"learnt before: {which} of {chapter.stream['name']}, {tested}")
    return lines
