"""Do runs in a process of their own, one after another, and tell the process that asked for them."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor

SECONDS_BETWEEN_MESSAGES = 0.3  # about steps

Tell = Callable[..., object]  # takes the name of a message and its values


@dataclass(frozen=True)
class Job:
    """A run to do: a spec to begin with, or the folder of a stopped one to go on with."""

    spec: RunSpec
    out: Path
    places: Places
    folder: Path | None = None  # of the record to go on with
    command: str = ""  # what was typed
    loggers: tuple[str, ...] = ()


class Telling(Progress):
    """Passes on what is heard of a run as messages about its course."""

    def __init__(self, tell: Tell) -> None:
        """Wait for the run."""
        self.tell = tell
        self.told = 0.0  # when a step was told of last
        self.task = self.epoch = self.step = 0
        self.num_epochs = self.num_steps = 1

    def run_started(self, spec: RunSpec, folder: Path, num_tasks: int) -> None:
        """Tell where the record lies."""
        self.tell("started", folder, num_tasks)

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        """Tell of the task."""
        self.task, self.epoch, self.step = task, 0, 0
        self.tell("at", task, 0.0)

    def epoch_started(self, epoch: int, num_epochs: int, first_step: int, num_steps: int) -> None:
        """Count the steps of the epoch."""
        self.epoch, self.num_epochs, self.step, self.num_steps = epoch, num_epochs, first_step, num_steps
        self.tell("at", self.task, self._share())

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Tell now and then how far the task is; the loss stays where it is."""
        self.step += 1
        if time.monotonic() - self.told >= SECONDS_BETWEEN_MESSAGES:
            self.told = time.monotonic()
            self.tell("at", self.task, self._share())

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Tell the accuracies."""
        self.tell("learnt", task, accuracies)

    def _share(self) -> float:
        return (self.epoch + self.step / max(1, self.num_steps)) / self.num_epochs


def work(pipe: connection.Connection, num_threads: int, log: str) -> None:
    """Do the jobs that come through the pipe until it is closed; what is printed goes into a file.

    Where the process that asked is gone, so is this one.
    """
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(num_threads)
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        do(job, lambda *message: pipe.send(message))


def do(job: Job, tell: Tell, *others: Progress) -> Record | None:
    """Do one run and tell of it; whatever is raised is told, too, and ends nothing but this run.

    ``others`` hear of the run as it goes on.
    """
    from clbench.loggers import joined
    from clbench.loggers.together import Together
    from clbench.runs import line

    try:
        with joined(job.loggers, Together([Telling(tell), *others])) as progress:
            if job.folder:
                record = line.resume(job.folder, places=job.places, progress=progress)
            else:
                record = line.execute(
                    job.spec, out=job.out, places=job.places, progress=progress, command=job.command
                )
    except UserError as error:
        tell("failed", str(error), "")
    except Exception as error:
        tell("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    else:
        tell("finished", record.path)
        return record
    return None


def _leave_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
