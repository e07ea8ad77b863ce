"""Share what several tests of reports need: runs that were never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clbench.options import Value
    from clbench.records.record import Record


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Record]:
    """A function that writes a finished run into a folder, as if it had been run.

    On each of three tasks, after each, it predicts the share ``accuracy`` of 20 images right.
    """
    import numpy as np

    from clbench.evaluate import compute
    from clbench.records.record import Record
    from clbench.records.spec import Part, RunOptions, RunSpec

    def write(
        strategy: str, seed: int = 0, accuracy: float = 0.5, stream: str = "split-digits", **options: Value
    ) -> Record:
        spec = RunSpec(
            stream=Part(name=stream),
            strategy=Part(name=strategy, options=options),
            backbone=Part(name="vit-micro"),
            petl=Part(name="adapter"),
            run=RunOptions(seed=seed),
        )
        record = Record.create(tmp_path / "runs", spec)
        for after in range(3):
            task, row = np.divmod(np.arange(20 * (after + 1)), 20)
            label = 2 * task + row % 2
            prediction = np.where(row < round(20 * accuracy), label, (label + 1) % (2 * (after + 1)))
            confidence = np.full(len(row), 0.75, dtype=np.float32)
            log = {"after_task": np.full(len(row), after), "task": task, "row": row, "label": label}
            log |= {"prediction": prediction, "masked_prediction": prediction}
            record.write_predictions(after, {**log, "confidence": confidence, "label_score": confidence})
        matrix = {"classes_of_task": [[0, 1], [2, 3], [4, 5]]}
        record.write_json("matrix.json", matrix)
        results = record.results()
        record.write_json("matrix.json", {**matrix, "accuracy": results.accuracy})
        record.write_json("hashes.json", {"stream": stream, "weights": "w" * 64, "strategy_source": "x" * 64})
        record.write_json("environment.json", {"python": "3.10.1", "packages": {"torch": "2.4.0"}})
        record.write_text("command.txt", f"clbench run --strategy {strategy} --seed {seed}\n")
        costs = {
            "parameters": {"total": 1_012_345, "trainable": 12_345},
            "stored_bytes": {"head": 1_000, "petl": 164_000, "total": 165_000},
            "packed_bytes": {"head": 1_000, "petl": 5_250, "total": 6_250},
            "flops": {"train": 1e12 * (1 + accuracy)},
            "memory": {"process": {"peak": 345_000_000}},
            "time": {"train": {"seconds": 50.0, "images": 615}},
        }
        record.write_json("costs.json", costs)
        record.write_json("metrics.json", compute(results))
        return record

    return write
