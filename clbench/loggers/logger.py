"""Make of what is heard of a run the numbers and pictures that a logger is to keep."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clbench.records.progress import Progress
from clbench.records.record import Record

if TYPE_CHECKING:
    from torch import Tensor

    from clbench.records.spec import RunSpec

SECONDS_BETWEEN_LOSSES = 0.5  # reading a loss waits for the device

Axis = Literal["step", "task"]  # training steps so far; tasks learnt so far


class Sink(ABC):
    """Where one logger keeps things: a folder in the record, a service."""

    @abstractmethod
    def open(self, spec: RunSpec, folder: Path) -> None:
        """Begin, or go on with what an earlier process wrote about the record in ``folder``."""

    @abstractmethod
    def scalars(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Keep a point of each of some curves over an axis."""

    @abstractmethod
    def finish(self, metrics: Mapping[str, float], figures: Mapping[str, Path]) -> None:
        """Keep the final metrics and PNG files, by name."""

    @abstractmethod
    def close(self, *, is_finished: bool) -> None:
        """Write out what is left; the run has finished or was stopped."""


class Logger(Progress):
    """Tells a sink the training loss, the accuracies after each task, and the outcome; a context manager."""

    def __init__(self, sink: Sink) -> None:
        """Wait for a run."""
        self.sink = sink
        self.num_steps = 0
        self.told = -math.inf  # when the last loss was, in seconds
        self.is_open = self.is_finished = False

    def __enter__(self) -> Logger:
        """Return itself; what is written to is opened when the run starts."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the sink."""
        if self.is_open:
            self.sink.close(is_finished=self.is_finished)

    def run_started(self, spec: RunSpec, folder: Path, num_tasks: int) -> None:
        """Open the sink, and tell what is known of the tasks before: a logger may come late."""
        self.sink.open(spec, folder)
        self.is_open = True
        if not (folder / "matrix.json").is_file():
            return
        for task, row in enumerate(Record.open(folder).read_json("matrix.json")["accuracy"]):
            self.task_finished(task, [math.nan if value is None else value for value in row[: task + 1]])

    def run_resumed(self, num_steps: int) -> None:
        """Count on from where the run was stopped."""
        self.num_steps = num_steps

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Count the step, and now and then tell its loss."""
        self.num_steps += 1
        now = time.monotonic()
        if now - self.told >= SECONDS_BETWEEN_LOSSES:
            self.told = now
            self.sink.scalars("step", self.num_steps, {"train/loss": float(loss)})

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Tell the accuracies that are known, and their mean."""
        known = {number: value for number, value in enumerate(accuracies, 1) if not math.isnan(value)}
        if known:
            values = {f"accuracy/task-{number:02}": value for number, value in known.items()}
            values["accuracy/average"] = sum(known.values()) / len(known)
            self.sink.scalars("task", task + 1, values)

    def variant_predicted(self, variant: str, accuracies: list[float]) -> None:
        """Tell the mean of a variant's accuracies that are known."""
        known = [value for value in accuracies if not math.isnan(value)]
        if known:
            values = {f"accuracy/{variant}": sum(known) / len(known)}
            self.sink.scalars("task", len(accuracies), values)

    def run_finished(self, folder: Path) -> None:
        """Tell the metrics that are known, and show the figures."""
        metrics = Record.open(folder).read_json("metrics.json")
        known = {f"metrics/{name}": value for name, value in metrics.items() if value is not None}
        figures = {f"figures/{file.stem}": file for file in sorted((folder / "figures").glob("*.png"))}
        self.sink.finish(known, figures)
        self.is_finished = True
