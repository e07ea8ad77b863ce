"""Put the validation images of a stream in the place of its test images, so that nothing reads those."""

from __future__ import annotations

from dataclasses import replace

from clbench.data.tasks import TaskStream
from clbench.options import SpecError


def scored_on_validation(stream: TaskStream, *, learns_on: bool = False) -> TaskStream:
    """Return the stream with no way to its test images: those held out of training stand in their place.

    SpecError where a task that is tested has none of them, or where a run learns on from another one.
    """
    if learns_on:
        raise SpecError(
            "run.scored_on=validation: a run that learns on is scored on test images (allowed: test)"
        )
    bare = [task.index + 1 for task in stream.tasks if len(task.test) and not len(task.validation)]
    if bare:
        raise SpecError(
            f"run.scored_on=validation: task {bare[0]} of {stream.name} has no validation images;"
            " set stream.validation_rate, as in stream.validation_rate=0.2"
        )
    return replace(stream, tasks=[replace(task, test=task.validation) for task in stream.tasks])
