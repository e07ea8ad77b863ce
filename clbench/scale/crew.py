"""Say what does jobs for a driver: processes of this machine, or those of a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from clbench.scale.worker import Job

Heard = tuple[Any, ...]  # the number of a job, the name of a message, and its values


class Crew(ABC):
    """Does jobs, each under a number; a context manager, which leaves no process behind."""

    @abstractmethod
    def __enter__(self) -> Crew:
        """Begin without jobs."""

    @abstractmethod
    def __exit__(self, *raised: object) -> None:
        """End what is still being done; the records stay, to be gone on with."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether a job that is given now can begin."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether any job is not done."""

    @abstractmethod
    def give(self, number: int, job: Job) -> None:
        """Let a job begin."""

    @abstractmethod
    def heard(self) -> list[Heard]:
        """Wait a little, and return the messages that have come in.

        They are those of ``clbench.scale.worker.do``, "asked" with the number of tasks learnt and their
        accuracies, which waits for ``answer``, and "lost" with how and the last words where a process died.
        """

    @abstractmethod
    def answer(self, number: int, *, is_to_go_on: bool) -> None:
        """Answer a job that asked whether it is to go on."""
