"""Do several runs at a time, each in a process of its own, and hear of all of them in one place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from clbench.scale.worker import Job, work

SECONDS_BETWEEN_LOOKS = 0.25  # at what is heard, so that times on a screen go on
SECONDS_TO_END = 5.0  # that a process is given before it is killed
LAST_LINES = 5  # of what a process printed, told where it died

Hear = Callable[..., object]  # takes a job's number, the name of a message and its values


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    log: Path
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
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="clbench-") as folder:
        try:
            while waiting or any(worker.job is not None for worker in workers):
                while waiting and len(workers) < num_processes:
                    workers.append(_start(num_threads, Path(folder) / f"{len(jobs) - len(waiting)}.log"))
                    _give(workers[-1], jobs, waiting, hear)
                ready = connection.wait([worker.pipe for worker in workers], SECONDS_BETWEEN_LOOKS)
                for worker in [worker for worker in workers if worker.pipe in ready]:
                    if not _listen(worker, hear):
                        workers.remove(worker)
                    elif worker.job is None and waiting:
                        _give(worker, jobs, waiting, hear)
                tick()
        finally:
            _end(workers)


def _start(num_threads: int, log: Path) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, num_threads, str(log)))
    log.touch()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process inherits
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    return _Worker(process, ours, log)


def _give(worker: _Worker, jobs: Sequence[Job], waiting: list[int], hear: Hear) -> None:
    worker.job = waiting.pop(0)
    hear(worker.job, "starting")
    with suppress(OSError):  # it died; listening to it tells
        worker.pipe.send(jobs[worker.job])


def _listen(worker: _Worker, hear: Hear) -> bool:
    """Take one message; return whether the process is still there."""
    message: tuple[Any, ...]
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(SECONDS_TO_END)
        if worker.job is None:
            return False
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"status {code}"
        hear(worker.job, "failed", f"its process ended with {how}", worker.last_words())
        return False
    assert worker.job is not None
    hear(worker.job, *message)
    if message[0] in ("finished", "failed"):
        worker.job = None
    return True


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(SECONDS_TO_END)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
