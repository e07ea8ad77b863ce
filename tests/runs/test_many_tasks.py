"""What a task costs besides learning does not grow with the tasks before it, and is accounted for."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import clbench
from clbench.records import logs
from clbench.records import record as record_files
from clbench.runs import line
from clbench.runs.checkpoint import Checkpoint
from clbench.runs.run_log import is_landmark


@pytest.fixture
def one_class_a_task() -> clbench.RunSpec:
    return clbench.resolve(
        {
            "stream": {"name": "split-digits", "tasks": "10", "train_per_class": 3, "test_per_class": 2},
            "strategy": {"name": "simplecil-linear"},
            "backbone": {"name": "vit-micro", "weights": "none"},
            "run": {},
        }
    )


def test_a_task_neither_reads_nor_saves_what_those_before_it_left(
    one_class_a_task: clbench.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reads, sizes = [], []
    predictions, save = logs.predictions_of, line.save_checkpoint
    for module in (logs, record_files):
        monkeypatch.setattr(
            module, "predictions_of", lambda folder: reads.append(len(sizes)) or predictions(folder)
        )

    def measured(folder: Path, checkpoint: Checkpoint) -> Path:
        sizes.append(len(json.dumps(checkpoint.info)))
        return save(folder, checkpoint)

    monkeypatch.setattr(line, "save_checkpoint", measured)
    started = time.perf_counter()
    record = clbench.execute(one_class_a_task, out=tmp_path, places=clbench.Places(None, tmp_path))
    seconds = time.perf_counter() - started
    assert len(sizes) == 10
    assert reads == [10]  # once, at the end: for figures and metrics
    assert sizes[-1] < 1.1 * sizes[1]
    costs = record.read_json("costs.json")
    spent = {name: phase["seconds"] for name, phase in costs["time"].items()}
    assert {"start-up", "record", "checkpoint", "accounting", "figures", "metrics", "other"} <= spent.keys()
    assert sum(spent.values()) == pytest.approx(seconds, rel=0.05)
    assert len(costs["by_task"]) == 10
    rows = [record.read_json("matrix.json")[name] for name in ("accuracy", "masked")]
    results = record.results()
    for found, expected in zip(rows, (results.accuracy, results.masked), strict=True):
        np.testing.assert_array_equal(np.array(found, np.float64), expected)


def test_landmarks_become_rare():
    numbers = [number for number in range(1, 1001) if is_landmark(number)]
    assert numbers[:13] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    assert len(numbers) < 40
    assert all(later <= 1.25 * sooner for sooner, later in pairwise(numbers[7:]))
