"""Find the run of joint training that a run is to be compared with, and the metrics that compare the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from clbench import strategies
from clbench.evaluate import METRICS, Results
from clbench.records.record import Record


def joint_runs(records: Iterable[Record]) -> Callable[[Record], Record | None]:
    """Return what finds a run's joint training among the records: same stream, weights and seed.

    One with the same module is preferred, then one that trained after every task, then the latest.
    """
    known: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        if _is_joint(record):
            known.setdefault(_key(record), []).append(record)

    def find(record: Record) -> Record | None:
        found = known.get(_key(record), []) if not _is_joint(record) else []
        return max(found, key=lambda joint: _preference(joint, record), default=None)

    return find


def compared(record: Record, joint: Record | None) -> dict[str, float]:
    """Return the metrics that compare a run with joint training; nothing without the latter.

    NaN where the two have not as many tasks.
    """
    if joint is None:
        return {}
    own, other = _results(record), _results(joint)
    metrics = {name: metric for name, metric in METRICS.items() if metric.against == "joint"}
    if own.num_tasks != other.num_tasks:
        return dict.fromkeys(metrics, math.nan)
    return {name: metric(own, other) for name, metric in metrics.items()}


def _preference(joint: Record, record: Record) -> tuple[bool, bool]:
    return joint.spec.petl.name == record.spec.petl.name, joint.spec.strategy.options.get("when") == "every"


def _is_joint(record: Record) -> bool:
    name = record.spec.strategy.name
    if record.within is not None:
        return False
    return name in strategies.names() and strategies.registry.card(name).preset.get("bound") == "joint"


def _key(record: Record) -> tuple[str, str, int]:
    hashes = record.read_json("hashes.json")
    return hashes["stream"], hashes["weights"], record.spec.run.seed


def _results(record: Record) -> Results:
    """Return the accuracies alone, which those metrics need, without reading predictions."""
    matrix = record.read_json("matrix.json")
    accuracy = np.array(matrix["accuracy"], dtype=np.float64)
    return Results(accuracy, accuracy, np.array(matrix.get("num_test") or []))
