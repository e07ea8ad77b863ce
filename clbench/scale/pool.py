"""Do several runs at a time, each in a process of its own, and hear of all of them in one place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from clbench.scale.crew import Crew, Heard
from clbench.scale.worker import LAST, Job, work

SECONDS_BETWEEN_LOOKS = 0.25  # at what is heard, so that times on a screen go on
SECONDS_TO_END = 5.0  # that a process is given before it is killed
LAST_LINES = 5  # of what a process printed, told where it died

Hear = Callable[..., object]  # takes a job's number, the name of a message and its values


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    log: Path
    place: int  # among those that run at a time
    job: int | None = None  # number of the job that it is at

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def threads_of_each(num_processes: int) -> int:
    """Return the threads of each process: torch's own number, shared out; what OMP_NUM_THREADS says stays."""
    import torch

    threads = torch.get_num_threads()
    return threads if os.environ.get("OMP_NUM_THREADS") else max(1, threads // num_processes)


def run_all(
    jobs: Sequence[Job], *, num_processes: int, num_threads: int, hear: Hear, tick: Callable[[], object]
) -> None:
    """Do all jobs, ``num_processes`` at a time; a job that fails, or whose process dies, ends no other.

    ``hear`` is told of every message with the number of its job, ``tick`` is called a few times a second. If
    this is interrupted the processes are ended; what they have written goes on when it is run again.
    """
    waiting = list(range(len(jobs)))
    with Pool(num_processes, num_threads) as pool:
        while waiting or pool.is_busy:
            while waiting and pool.has_room:
                hear(waiting[0], "starting")
                pool.give(waiting[0], jobs[waiting.pop(0)])
            for number, what, *told in pool.heard():
                hear(number, "failed" if what == "lost" else what, *told)
            tick()


@dataclass
class Pool(Crew):
    """Processes of this machine that do jobs; one that dies is replaced when there is more to do."""

    num_processes: int
    num_threads: int  # of each
    devices: Sequence[str | None] = (None,)  # CUDA devices that the first, the second, ... process sees
    workers: list[_Worker] = field(default_factory=list, init=False)
    folder: tempfile.TemporaryDirectory[str] = field(init=False, repr=False)
    num_started: int = field(default=0, init=False)

    def __enter__(self) -> Pool:
        """Begin without processes."""
        self.folder = tempfile.TemporaryDirectory(prefix="clbench-")
        return self

    def __exit__(self, *raised: object) -> None:
        """End the processes."""
        _end(self.workers)
        self.folder.cleanup()

    @property
    def has_room(self) -> bool:
        """Whether a process is idle, or may be started."""
        return sum(worker.job is not None for worker in self.workers) < self.num_processes

    @property
    def is_busy(self) -> bool:
        """Whether any job is not done."""
        return any(worker.job is not None for worker in self.workers)

    def give(self, number: int, job: Job) -> None:
        """Let an idle process do the job, or a new one."""
        idle = [worker for worker in self.workers if worker.job is None]
        worker = idle[0] if idle else self._start()
        worker.job = number
        with suppress(OSError):  # it died; listening to it tells
            worker.pipe.send(job)

    def heard(self) -> list[Heard]:
        """Return what the processes say, as soon as one says something."""
        found = []
        ready = connection.wait([worker.pipe for worker in self.workers], SECONDS_BETWEEN_LOOKS)
        for worker in [worker for worker in self.workers if worker.pipe in ready]:
            number, message = worker.job, _message(worker)
            if message[0] == "lost":
                self.workers.remove(worker)
            if message[0] in ("lost", *LAST):
                worker.job = None
            if number is not None:
                found.append((number, *message))
        return found

    def answer(self, number: int, *, is_to_go_on: bool) -> None:
        """Tell the process at a job, which waits for that."""
        for worker in self.workers:
            if worker.job == number:
                with suppress(OSError):
                    worker.pipe.send(is_to_go_on)

    def _start(self) -> _Worker:
        taken = {worker.place for worker in self.workers}
        place = next(each for each in range(self.num_processes) if each not in taken)
        log = Path(self.folder.name) / f"{self.num_started}.log"
        self.num_started += 1
        self.workers.append(_start(self.num_threads, log, place, self.devices[place % len(self.devices)]))
        return self.workers[-1]


def _start(num_threads: int, log: Path, place: int, devices: str | None) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, num_threads, str(log), devices))
    log.touch()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process inherits
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    return _Worker(process, ours, log, place)


def _message(worker: _Worker) -> tuple[Any, ...]:
    """Take one message; "lost" and how it ended, where the process is gone."""
    try:
        message: tuple[Any, ...] = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(SECONDS_TO_END)
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"status {code}"
        return "lost", f"its process ended with {how}", worker.last_words()
    return message


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(SECONDS_TO_END)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
