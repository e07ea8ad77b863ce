"""Keep in a run's record what comes of each task: predictions, probes, and the matrix of accuracies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from clbench.backbones.backbone import Backbone
from clbench.data.tasks import TaskStream
from clbench.evaluate.costs import (
    bytes_by_kind,
    capacity_bytes,
    count_parameters,
    packed_bytes,
    stored_bytes,
)
from clbench.evaluate.matrix_rows import MatrixRows
from clbench.evaluate.meter import Meter
from clbench.records.record import Record
from clbench.runs.budget import refuse_over
from clbench.runs.evaluator import Columns
from clbench.runs.loop import BEFORE, Loop
from clbench.runs.probe import Probe
from clbench.strategies import Strategy


@dataclass(frozen=True)
class RunLog:
    """Keeps what comes of each task."""

    record: Record
    strategy: Strategy
    backbone: Backbone
    stream: TaskStream
    loop: Loop
    probe: Probe | None
    rows: MatrixRows

    def read(self) -> None:
        """Count what was predicted before the run was stopped."""
        self.rows.read(self.record.predictions())

    def add(self, task: int, columns: Columns | None) -> list[float]:
        """Keep the predictions made after a task; return its row of the accuracy matrix."""
        with self.loop.meter.phase("record"):
            if columns is not None:
                after = np.full(len(columns["row"]), task, np.int16)
                self.record.write_predictions(task, {"after_task": after, **columns})
                self.rows.add(task, columns)
            return [] if task == BEFORE else self._add_rest(task, is_evaluated=columns is not None)

    def _add_rest(self, task: int, *, is_evaluated: bool) -> list[float]:
        record, loop = self.record, self.loop
        if is_evaluated:
            record.write_reliability(loop.evaluator.reliability)
            if self.probe:
                record.write_representations(task, self.probe.features())
        kept = held(self.strategy, self.backbone, loop.meter)
        refuse_over(record.spec, kept["stored_bytes_by_kind"], task + 1)
        loop.meter.task_ended(task, kept)
        num_tasks = len(self.stream.tasks)
        if task + 1 == num_tasks or is_landmark(task + 1):
            self._write_matrices()
        accuracies: list[float] = self.rows.accuracy[task, : task + 1].tolist()
        notes = loop.strategy.notes()
        record.event("task finished", task=task, accuracies=accuracies, **({"notes": notes} if notes else {}))
        return accuracies

    def _write_matrices(self) -> None:
        """Write them as they are now; their file grows with the square of the number of tasks."""
        self.record.write_json("matrix.json", matrix_of(self.stream, self.rows))


def matrix_of(stream: TaskStream, rows: MatrixRows) -> dict[str, Any]:
    """Return what ``matrix.json`` holds."""
    return {
        "accuracy": rows.accuracy,
        "masked": rows.masked,
        "untrained": rows.untrained,
        "num_test": [len(each.test) for each in stream.tasks],
        "class_order": stream.class_order,
        "class_names": stream.class_names,
        "classes_of_task": [each.classes for each in stream.tasks],
    }


def is_landmark(number: int) -> bool:
    """Tell whether at most the first three digits of a number in base two are not 0: 1 to 8, 10, 12, 14, 16.

    What grows with the tasks and is written anew at these numbers alone costs a task no more as they grow.
    """
    return number % (1 << max(0, number.bit_length() - 3)) == 0


def held(
    strategy: Strategy, backbone: Backbone, meter: Meter, folded: Collection[object] = ()
) -> dict[str, Any]:
    """Return what a strategy holds now: parameters, and bytes by part and by kind.

    Modules that were ``folded`` into the backbone's weights are not held any more.
    """
    kinds = {kind: part for kind, part in strategy.parts().items() if part not in folded}
    parameters = count_parameters(backbone, kinds)
    # a module that happens to be frozen when a task ends was trainable all the same
    parameters["trainable"] = meter.num_trainable or parameters["trainable"]
    return {
        "parameters": parameters,
        "stored_bytes": stored_bytes(kinds),
        "capacity_bytes": capacity_bytes(kinds),
        "packed_bytes": packed_bytes(kinds),
        "stored_bytes_by_kind": bytes_by_kind(kinds),
        "packed_bytes_by_kind": bytes_by_kind(kinds, packed=True),
        "backbone_bytes": {"total": backbone.num_bytes},
    }
