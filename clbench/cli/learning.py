"""Let a learner learn on, and print what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench import devices
from clbench.cli.live import watched
from clbench.cli.outcome import outcome
from clbench.cli.terminal import show
from clbench.data.tasks import Places
from clbench.deploy.learner import Learner
from clbench.deploy.learning_on import learn_on
from clbench.loggers import joined


@dataclass(frozen=True)
class Lesson:
    """What was typed."""

    stream: str
    settings: Mapping[str, Mapping[str, Any]]  # options that differ from before, by section
    out: Path
    places: Places
    loggers: tuple[str, ...]
    command: str


def learn_and_print(learner: Learner, lesson: Lesson) -> None:
    """Learn the tasks of the stream into a new record, and print it as a run is."""
    run = {**lesson.settings["run"]}
    run["device"] = devices.choose(str(run["device"]))
    with watched(lesson.places.data_dir) as live, joined(lesson.loggers, live) as progress:
        record = learn_on(
            learner,
            lesson.stream,
            settings={**lesson.settings, "run": run},
            out=lesson.out,
            places=lesson.places,
            progress=progress,
            command=lesson.command,
        )
    show(outcome(record))
