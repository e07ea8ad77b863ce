"""Do runs in a process of their own, one after another, and tell the process that asked for them."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.records.lock import LockedError
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor

SECONDS_BETWEEN_MESSAGES = 0.3  # about steps
SECONDS_BETWEEN_TRIES = 0.5  # at a record that another process still holds
LAST = ("finished", "failed", "refused", "stopped")  # the messages behind which none comes of a job

Tell = Callable[..., object]  # takes the name of a message and its values
Ask = Callable[[int, list[float]], bool]  # takes the number of tasks learnt and their accuracies


@dataclass(frozen=True)
class Job:
    """A run to do: a spec to begin with, or the folder of a stopped one to go on with."""

    spec: RunSpec
    out: Path
    places: Places
    folder: Path | None = None  # of the record to go on with
    command: str = ""  # what was typed
    loggers: tuple[str, ...] = ()
    asks_after: frozenset[int] = frozenset()  # numbers of tasks learnt, with more to come, after which to ask
    patience: float = 0.0  # seconds that a record is waited for which another process holds


class _StoppedError(Exception):
    """The run is not to go on: its record stays as it is, to be gone on with another time."""


class Telling(Progress):
    """Passes on what is heard of a run as messages about its course, and asks whether it is to go on."""

    def __init__(self, tell: Tell, ask: Ask | None = None, asks_after: Collection[int] = ()) -> None:
        """Wait for the run."""
        self.tell, self.ask, self.asks_after = tell, ask, asks_after
        self.folder = Path()  # of the record
        self.told = 0.0  # when a step was told of last
        self.task = self.epoch = self.step = 0
        self.num_epochs = self.num_steps = 1

    def run_started(self, spec: RunSpec, folder: Path, num_tasks: int) -> None:
        """Tell where the record lies."""
        self.folder = folder
        self.tell("started", folder, num_tasks)

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        """Tell of the task; the one before it is in the checkpoint now, so here it may be stopped."""
        if self.ask and task in self.asks_after and not self.ask(task, self._row_before(task)):
            raise _StoppedError
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

    def _row_before(self, task: int) -> list[float]:
        """Return the accuracies after the task before, which a resumed run has not heard."""
        row = Record.open(self.folder).read_json("matrix.json")["accuracy"][task - 1]
        return [math.nan if value is None else value for value in row[:task]]

    def _share(self) -> float:
        return (self.epoch + self.step / max(1, self.num_steps)) / self.num_epochs


def work(pipe: connection.Connection, num_threads: int, log: str, devices: str | None = None) -> None:
    """Do the jobs that come through the pipe until it is closed; what is printed goes into a file.

    ``devices`` are the CUDA devices that are seen; None: all. Where the process that asked is gone, so is
    this one.
    """
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(num_threads)

    def ask(num_tasks: int, accuracies: list[float]) -> bool:
        pipe.send(("asked", num_tasks, accuracies))
        return bool(pipe.recv())

    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        do(job, lambda *message: pipe.send(message), ask=ask)


def do(job: Job, tell: Tell, *others: Progress, ask: Ask | None = None) -> Record | None:
    """Do one run and tell of it; whatever is raised is told, too, and ends nothing but this run.

    ``others`` hear of the run as it goes on; ``ask`` says after some tasks whether it is to.
    """
    from clbench.loggers import joined
    from clbench.loggers.together import Together

    try:
        telling = Telling(tell, ask, job.asks_after)
        with joined(job.loggers, Together([telling, *others])) as progress:
            record = _done(job, progress)
    except _StoppedError:
        tell("stopped")
    except UserError as error:
        if error.options_are_at_fault:
            tell("refused", str(error))
        else:
            tell("failed", str(error), "")
    except Exception as error:
        tell("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    else:
        tell("finished", record.path)
        return record
    return None


def _done(job: Job, progress: Progress) -> Record:
    """Begin the run, or go on with it as soon as no other process holds its record."""
    from clbench.runs import line

    if not job.folder:
        return line.execute(job.spec, out=job.out, places=job.places, progress=progress, command=job.command)
    until = time.monotonic() + job.patience
    while True:
        try:
            return line.resume(job.folder, places=job.places, progress=progress)
        except LockedError:
            if time.monotonic() >= until:
                raise
            time.sleep(SECONDS_BETWEEN_TRIES)


def _leave_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
