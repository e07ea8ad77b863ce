"""Do jobs on a Ray cluster (Moritz et al. 2018, arXiv:1712.05889): a task each, on any node with room.

All nodes see the same folders: a job whose node is lost goes on from its record on another one.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from clbench.errors import UserError
from clbench.scale.crew import Crew, Heard
from clbench.scale.searching import MissingExtraError
from clbench.scale.worker import LAST, Job, do

LOCAL = "local-ray"  # the address of a cluster of this machine, which lives as long as the sweep
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_ANSWER = 10.0  # that a cluster is given
SECONDS_BETWEEN_COUNTS = 2.0  # of the processors of the cluster: nodes come and go
QUIET = {  # set before Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of what it will do one day
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


class ClusterError(UserError, ConnectionError):
    """A Ray cluster that cannot be joined, or whose nodes are too small for a run."""


class Mailbox:
    """An actor that keeps what runs say until the driver takes it, and what the driver answers."""

    def __init__(self) -> None:
        """Begin empty."""
        self.messages: list[Heard] = []
        self.answers: dict[tuple[int, int], bool] = {}

    def put(self, key: tuple[int, int], message: tuple[Any, ...]) -> None:
        """Keep a message of a run; its key is the number of its job and that of the attempt."""
        self.messages.append((key, *message))

    def take(self) -> list[Heard]:
        """Return all messages, in the order in which they came."""
        taken, self.messages = self.messages, []
        return taken

    def answer(self, key: tuple[int, int], is_to_go_on: bool) -> None:
        """Keep an answer."""
        self.answers[key] = is_to_go_on

    def answered(self, key: tuple[int, int]) -> bool | None:
        """Return the answer and forget it; None as long as there is none."""
        return self.answers.pop(key, None)


@dataclass
class RayPool(Crew):
    """A Ray cluster; those of its tasks that are not done when it is left are ended."""

    address: str  # as ray.init takes it, or local-ray
    num_processors: int  # of each run
    num_gpus: float
    most: int | None = None  # runs at a time; None: as many as the cluster has processors for
    ray: Any = field(init=False, repr=False)
    mailbox: Any = field(init=False, repr=False)
    tasks: dict[Any, tuple[int, int]] = field(default_factory=dict, init=False)  # keys by Ray's reference
    keys: dict[int, tuple[int, int]] = field(default_factory=dict, init=False)  # by the job's number
    num_given: int = field(default=0, init=False)
    counted: tuple[float, int] = field(default=(-1e9, 1), init=False)  # when, and the room of the cluster

    def __enter__(self) -> RayPool:
        """Join the cluster, or begin one; ClusterError if there is none."""
        self.ray = _joined(self.address)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = self.ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        try:
            self._refuse_small_nodes()
        except ClusterError:
            self.ray.shutdown()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        """End the tasks and leave the cluster."""
        for task in self.tasks:
            with suppress(Exception):  # it may have ended, or its node
                self.ray.cancel(task, force=True)
        self.ray.shutdown()

    @property
    def has_room(self) -> bool:
        """Whether the cluster has processors for one more run."""
        when, room = self.counted
        if time.monotonic() - when > SECONDS_BETWEEN_COUNTS:
            room = _room(self.ray.cluster_resources(), self.num_processors, self.num_gpus)
            self.counted = (time.monotonic(), room)
        # one waits where a node has gone, until another one comes
        return len(self.keys) < max(1, min(room, self.most or room))

    @property
    def is_busy(self) -> bool:
        """Whether any job is not done."""
        return bool(self.keys)

    def give(self, number: int, job: Job) -> None:
        """Let a task begin, here or on another node."""
        key = (number, self.num_given)
        self.num_given += 1
        resources = {"num_cpus": self.num_processors, "num_gpus": self.num_gpus, "max_retries": 0}
        remote = self.ray.remote(_do_there).options(**resources)
        task = remote.remote(self.mailbox, key, job, self.num_processors, os.getcwd())
        self.tasks[task], self.keys[number] = key, key

    def heard(self) -> list[Heard]:
        """Return what has come into the mailbox, and which tasks are lost."""
        ready, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
        found = []
        for key, what, *told in self.ray.get(self.mailbox.take.remote()):
            if self.keys.get(key[0]) == key:  # else it is of one that was given up
                found.append((key[0], what, *told))
                if what in LAST:
                    del self.keys[key[0]]
        for task in ready:
            key = self.tasks.pop(task)
            reason = self._end_of(task)
            if self.keys.get(key[0]) == key:
                del self.keys[key[0]]
                found.append((key[0], "lost", reason, ""))
        return found

    def answer(self, number: int, *, is_to_go_on: bool) -> None:
        """Put the answer where the task looks for it."""
        self.ray.get(self.mailbox.answer.remote(self.keys[number], is_to_go_on))

    def _end_of(self, task: Any) -> str:
        try:
            self.ray.get(task)
        except Exception as error:  # the process or its node died, or Ray could not start it
            return f"its process on the cluster ended: {type(error).__name__}"
        return "its process on the cluster ended"

    def _refuse_small_nodes(self) -> None:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(_room(each, self.num_processors, self.num_gpus) for each in nodes):
            most = max((int(each.get("CPU", 0)) for each in nodes), default=0)
            gpus = max((each.get("GPU", 0) for each in nodes), default=0)
            raise ClusterError(
                f"a run asks for sweep.processors={self.num_processors} and sweep.gpus={self.num_gpus:g},"
                f" and no node of {self.address} has more than {most} and {gpus:g}"
            )


def _do_there(
    mailbox: Any, key: tuple[int, int], job: Job, num_threads: int, folder: str
) -> None:  # pragma: no cover  # in a process of Ray's
    """Do one job in the folder where the sweep was started, as far as it is there."""
    import ray
    import torch

    ray.get(mailbox.answered.remote(key))  # raises where the driver is gone: then nothing is begun
    with suppress(OSError):
        os.chdir(folder)
    torch.set_num_threads(num_threads)

    def tell(*message: Any) -> None:
        ray.get(mailbox.put.remote(key, message))

    def ask(num_tasks: int, accuracies: list[float]) -> bool:
        tell("asked", num_tasks, accuracies)
        while True:
            answer: bool | None = ray.get(mailbox.answered.remote(key))
            if answer is not None:
                return answer
            time.sleep(SECONDS_BETWEEN_LOOKS)

    do(job, tell, ask=ask)


def _joined(address: str) -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('--address needs Ray: pip install "clbench[ray]"') from error
    try:
        _refuse_silence(address)
    except OSError as error:
        raise _no_cluster(address, error) from error
    where = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # what it raises where nobody answers is in no documentation
        raise _no_cluster(address, error) from error
    return ray


def _refuse_silence(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER):
            pass


def _no_cluster(address: str, error: Exception) -> ClusterError:
    said = " ".join(str(error).split())[:200]
    return ClusterError(
        f"--address {address}: no Ray cluster answers ({said}); start one with: ray start --head"
    )


def _room(resources: dict[str, float], num_processors: int, num_gpus: float) -> int:
    """Return how many runs so many processors and GPUs are enough for."""
    by_processors = int(resources.get("CPU", 0) // num_processors)
    return min(by_processors, int(resources.get("GPU", 0) / num_gpus)) if num_gpus else by_processors
