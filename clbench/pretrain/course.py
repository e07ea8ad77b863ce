"""Define a course: what a method of pre-training does, one step after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Course(ABC):
    """A number of steps, and what they have made so far.

    Everything random is drawn from a generator named by the step, so that a course that took back its state
    goes on as if it had not been stopped.
    """

    num_steps: int

    @abstractmethod
    def step(self, index: int) -> float:
        """Make a step (0-based) and return its loss."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return everything that the steps have changed."""

    @abstractmethod
    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that was returned before."""

    @abstractmethod
    def product(self, about: Mapping[str, str]) -> bytes:
        """Return the file that comes out, with what is to be said of it in its header."""

    def where(self) -> str:
        """Return which part of the course the last step was in, in a few words; empty: there is but one."""
        return ""

    def close(self) -> None:
        """Let go of what it holds outside this process; no step follows."""

    def notes(self) -> list[str]:
        """Return what a user should know before the first step, a line each."""
        return []

    def examined(self) -> dict[str, Any]:
        """Return what it is worth on test images, as JSON can hold it."""
        return {}
