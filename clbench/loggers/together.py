"""Let several hear of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.records.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from clbench.records.spec import RunSpec


class Together(Progress):
    """Passes everything on to each of its members, in their order."""

    def __init__(self, members: Sequence[Progress]) -> None:
        """Take the members."""
        self.members = members

    def run_started(self, spec: RunSpec, folder: Path, num_tasks: int) -> None:
        """Pass it on."""
        for each in self.members:
            each.run_started(spec, folder, num_tasks)

    def noted(self, line: str) -> None:
        """Pass it on."""
        for each in self.members:
            each.noted(line)

    def run_resumed(self, num_steps: int) -> None:
        """Pass it on."""
        for each in self.members:
            each.run_resumed(num_steps)

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        """Pass it on."""
        for each in self.members:
            each.task_started(task, classes, num_images)

    def epoch_started(self, epoch: int, num_epochs: int, first_step: int, num_steps: int) -> None:
        """Pass it on."""
        for each in self.members:
            each.epoch_started(epoch, num_epochs, first_step, num_steps)

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Pass it on."""
        for each in self.members:
            each.step_done(num_images, loss)

    def evaluation_started(self, num_images: int) -> None:
        """Pass it on."""
        for each in self.members:
            each.evaluation_started(num_images)

    def batch_predicted(self, num_images: int) -> None:
        """Pass it on."""
        for each in self.members:
            each.batch_predicted(num_images)

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Pass it on."""
        for each in self.members:
            each.task_finished(task, accuracies)

    def variant_predicted(self, variant: str, accuracies: list[float]) -> None:
        """Pass it on."""
        for each in self.members:
            each.variant_predicted(variant, accuracies)

    def run_finished(self, folder: Path) -> None:
        """Pass it on."""
        for each in self.members:
            each.run_finished(folder)
