"""Incubate modules at the same time, each in a process, and hear of their steps one by one.

A process is told to make a step, and tells its loss; so the one that asks can stop between any two steps, and
ask for the state of all of them. Every process reads images and weights for itself.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Protocol, cast

from safetensors.torch import load, save
from torch import Tensor

from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.pretrain.asked import Asked
from clbench.pretrain.parts.accounts import Spent

if TYPE_CHECKING:
    from clbench.pretrain.materials import Materials
    from clbench.pretrain.parts.training import Training

Finish = Callable[[str, Mapping[str, Tensor], Spent], object]
SECONDS_TO_END = 5.0  # that a process is given before it is killed


class InStages(Protocol):
    """A course whose stages can be done one without the other."""

    results: dict[str, dict[str, Tensor]]
    spent: dict[str, Spent]

    def begun(self, name: str) -> Training:
        """Return the training of a stage, at its beginning where it was not begun before."""

    def advance(self, name: str) -> float:
        """Make a step of a stage and return its loss; the last one puts down what the stage has learnt."""


class ApartError(UserError, RuntimeError):
    """A process that ended before its module was done."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    stage: str = ""  # what it is at; empty: nothing
    is_busy: bool = False  # whether it makes a step


class Apart:
    """Some processes, and the stages that they are at."""

    def __init__(
        self,
        materials: Materials,
        *,
        known: Mapping[str, Mapping[str, Tensor]],
        waiting: Mapping[str, Mapping[str, Tensor]],
        num_processes: int,
        num_threads: int,
        finish: Finish,
    ) -> None:
        """Start the processes.

        Args:
            materials: What was asked for, and where data are found.
            known: What finished stages have learnt that the others need, by name.
            waiting: The stages to be done, by name, each with its state, empty before the first step.
            num_processes: How many at a time.
            num_threads: Of each; 0: the threads of this one, shared out.
            finish: Is told what a stage has learnt when it is done.
        """
        import torch

        self.waiting = {name: save(_whole(state)) for name, state in waiting.items()}
        self.finish = finish
        count = min(num_processes, len(self.waiting))
        num_threads = num_threads or max(1, torch.get_num_threads() // count)
        results = {name: save(_whole(result)) for name, result in known.items()}
        given = (materials.asked, materials.places, results, num_threads)
        self.workers = [_started(given) for _ in range(count)]

    def hear(self) -> list[tuple[str, float]]:
        """Return the stages and losses of the steps that come next, one at least."""
        for worker in self.workers:
            if not worker.stage and self.waiting:
                worker.stage = next(iter(self.waiting))
                self._send(worker, ("begin", worker.stage, self.waiting.pop(worker.stage)))
            if worker.stage and not worker.is_busy:
                self._send(worker, ("step",))
                worker.is_busy = True
        return self._heard()

    def hear_all(self) -> list[tuple[str, float]]:
        """Return the stages and losses of the steps that are going on; afterwards none is."""
        heard = []
        while any(worker.is_busy for worker in self.workers):
            heard += self._heard()
        return heard

    def states(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of each stage that is going on; no step may be."""
        states = {name: load(state) for name, state in self.waiting.items()}
        for worker in self.workers:
            if worker.stage:
                self._send(worker, ("state",))
                states[worker.stage] = load(self._received(worker))
        return {name: state for name, state in states.items() if state}

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.pipe.close()  # at which it ends
        for worker in self.workers:
            worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers = []

    def _heard(self) -> list[tuple[str, float]]:
        heard = []
        busy = [worker for worker in self.workers if worker.is_busy]
        ready = connection.wait([worker.pipe for worker in busy])
        for worker in busy:
            if worker.pipe in ready:
                loss, result, spent = self._received(worker)
                worker.is_busy = False
                heard.append((worker.stage, loss))
                if result:
                    name, worker.stage = worker.stage, ""
                    self.finish(name, load(result), spent)
        return heard

    def _send(self, worker: _Worker, message: tuple[object, ...]) -> None:
        try:
            worker.pipe.send(message)
        except OSError as error:
            raise self._ended(worker) from error

    def _received(self, worker: _Worker) -> Any:
        try:
            kind, told = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended(worker) from error
        if kind == "failed":
            raise ApartError(told)
        return told

    def _ended(self, worker: _Worker) -> ApartError:
        worker.process.join(SECONDS_TO_END)
        return ApartError(
            f"the process that incubated {worker.stage or 'a module'} ended (exit code"
            f" {worker.process.exitcode}); the same command goes on"
        )


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _started(given: tuple[Asked, Places, dict[str, bytes], int]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, *given), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return _Worker(process, ours)


def _work(
    pipe: connection.Connection, asked: Asked, places: Places, known: dict[str, bytes], num_threads: int
) -> None:
    """Do what is asked for until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends this one
    try:
        _serve(pipe, asked, places, known, num_threads)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody asks any more
    except UserError as error:
        pipe.send(("failed", str(error)))
    except Exception:
        pipe.send(("failed", traceback.format_exc()))


def _serve(
    pipe: connection.Connection, asked: Asked, places: Places, known: dict[str, bytes], num_threads: int
) -> None:
    import torch

    from clbench.pretrain.materials import gathered

    torch.set_num_threads(num_threads)
    course = cast("InStages", asked.made_method().begin(gathered(asked, places)))
    course.results |= {name: load(result) for name, result in known.items()}
    stage = ""
    while True:
        what, *told = pipe.recv()
        if what == "begin":
            stage, state = told[0], load(told[1])
            training = course.begun(stage)
            if state:
                training.take_back(state)
        elif what == "state":
            pipe.send(("state", save(_whole(course.begun(stage).state()))))
        else:
            loss = course.advance(stage)
            result = course.results.get(stage)
            done = (save(_whole(result)), course.spent[stage]) if result else (b"", None)
            pipe.send(("stepped", (loss, *done)))
