"""Follow a run from elsewhere: how far it is, how accurate, and how long it will still take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["waiting", "starting", "running", "finished", "failed", "there"]  # there: done earlier


@dataclass
class Course:
    """What is known of one run; ``hear`` takes what ``clbench.scale.worker.Telling`` says."""

    label: str
    state: State = "waiting"
    folder: Path | None = None
    task: int = 0  # 0-based, being learnt
    num_tasks: int = 0
    share: float = 0.0  # of the task's training that is done
    accuracies: list[float] = field(default_factory=list)  # on the tasks seen, after the last one finished
    reason: str = ""  # why it failed, in one line
    details: str = ""  # of a failure that is no user's: the traceback
    begun: tuple[float, float] | None = None  # seconds of the clock, and how far it was then, in [0, 1]

    def hear(self, what: str, *told: Any) -> None:
        """Take one message in."""
        getattr(self, f"_{what}")(*told)

    @property
    def done(self) -> float:
        """The share of the run that is done, each task taken to be as long as any other."""
        return (self.task + self.share) / self.num_tasks if self.num_tasks else 0.0

    @property
    def accuracy(self) -> float:
        """The mean accuracy on the tasks seen, NaN as long as none is known."""
        known = [value for value in self.accuracies if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    @property
    def seconds_left(self) -> float:
        """How long the rest will take if it goes on as it went; NaN as long as nothing can be said."""
        if self.state != "running" or self.begun is None or self.done <= self.begun[1]:
            return math.nan
        since, before = self.begun
        return (time.monotonic() - since) * (1 - self.done) / (self.done - before)

    def _starting(self) -> None:
        self.state = "starting"

    def _started(self, folder: Path, num_tasks: int) -> None:
        self.state, self.folder, self.num_tasks = "running", folder, num_tasks

    def _at(self, task: int, share: float) -> None:
        self.task, self.share = task, share
        if self.begun is None:
            self.begun = (time.monotonic(), self.done)

    def _learnt(self, task: int, accuracies: list[float]) -> None:
        self.task, self.share, self.accuracies = task, 1.0, accuracies

    def _finished(self, folder: Path) -> None:
        self.state, self.folder, self.share = "finished", folder, 1.0

    def _refused(self, reason: str) -> None:
        self._failed(reason, "")

    def _failed(self, reason: str, details: str) -> None:
        self.state, self.reason, self.details = "failed", reason, details
