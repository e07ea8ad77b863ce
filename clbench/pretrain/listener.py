"""Define what may be told while a course goes on; the base class tells nobody."""

from __future__ import annotations

from collections.abc import Sequence


class Listener:
    """Hears how a course goes; subclasses override what they want to show."""

    def begun(self, num_steps: int, num_done: int, notes: Sequence[str]) -> None:
        """Hear how many steps there are, how many were done before, and what a user should know."""

    def step_done(self, loss: float, where: str) -> None:
        """Hear of a step, and which part of the course it was in, if there are several."""

    def examining(self) -> None:
        """Hear that all steps are done, and that what they made is looked at."""
