"""Define what may be told while a run goes on; the base class tells nobody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from clbench.records.spec import RunSpec


class Progress:
    """Hears of every stage of a run; subclasses override what they want to show."""

    def run_started(self, spec: RunSpec, folder: Path, num_tasks: int) -> None:
        """Hear that a run begins, or goes on, and where its record lies."""

    def noted(self, line: str) -> None:
        """Hear what a user should know of data, weights or strategy before the first task."""

    def run_resumed(self, num_steps: int) -> None:
        """Hear that the run goes on after so many training steps."""

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        """Hear that the strategy meets a task (0-based) with ``num_images`` images to learn from."""

    def epoch_started(self, epoch: int, num_epochs: int, first_step: int, num_steps: int) -> None:
        """Hear that an epoch (0-based) begins, or goes on at ``first_step``."""

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Hear of a step; ``loss`` is a scalar on the device, and reading it waits for the device."""

    def evaluation_started(self, num_images: int) -> None:
        """Hear that the seen test images are being predicted."""

    def batch_predicted(self, num_images: int) -> None:
        """Hear that so many more images have been predicted."""

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Hear the accuracies in [0, 1] on the tasks seen so far (NaN: not known)."""

    def variant_predicted(self, variant: str, accuracies: list[float]) -> None:
        """Hear the accuracies of a variant on the tasks seen so far."""

    def run_finished(self, folder: Path) -> None:
        """Hear that the record is complete."""
