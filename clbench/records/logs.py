"""Read what a run noted image by image and look by look, and refuse what does not fit its matrix.

The number of tasks and of classes is known from ``matrix.json``: what a log says beyond them would ask for
memory without end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.outside.reading import RecordError, read_columns, read_tensors, told_in_one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clbench.evaluate.representations import Representations
    from clbench.evaluate.results import Results

    Columns = dict[str, NDArray[np.generic]]

LOG_FILE = re.compile(r"after-task-(\d{1,9})\.parquet")
PROBE_FILE = re.compile(r"after-task-(\d{1,9})\.safetensors")
PROBED = {"features": ("f", 2), "labels": ("i", 1), "tasks": ("i", 1), "is_test": ("b", 1)}


@dataclass(frozen=True)
class Sizes:
    """How many tasks and classes a run has, as its ``matrix.json`` says."""

    num_tasks: int
    num_classes: int

    @classmethod
    def of(cls, matrix: Mapping[str, Any]) -> Sizes:
        """Read them from the content of ``matrix.json``."""
        classes = matrix["classes_of_task"]
        named = len(matrix.get("class_names") or ())
        return cls(len(classes), max([named, *(1 + number for task in classes for number in task)]))


def predictions_of(folder: Path) -> Columns:
    """Return the logs of all evaluations, one after another; columns without rows before the first."""
    import numpy as np

    from clbench.evaluate.results import COLUMNS, LOG_TYPES

    before = folder / "predictions" / "before.parquet"
    files = [*([before] if before.exists() else []), *numbered(folder / "predictions", LOG_FILE)]
    logs = {file: read_columns(file) for file in files}
    if not logs:
        return {name: np.empty(0, kind) for name, kind in LOG_TYPES.items()}
    first = next(iter(logs.values()))
    for file, log in logs.items():
        _refuse_without(file, log, [*COLUMNS, *first])
        for name in log.keys() & LOG_TYPES.keys():
            _refuse_kind(file, name, log[name], "f" if np.dtype(LOG_TYPES[name]).kind == "f" else "iu")
    return {name: np.concatenate([log[name] for log in logs.values()]) for name in first}


def representations_of(folder: Path) -> Representations | None:
    """Return the features of the probe set; None in a record that has none."""
    from clbench.evaluate.representations import Representations

    read = {file: read_tensors(file) for file in numbered(folder / "probe", PROBE_FILE)}
    if not read:
        return None
    *_, last = read.values()
    for file, arrays in read.items():
        _refuse_without(file, arrays, PROBED)
        for name, (kind, num_dimensions) in PROBED.items():
            _refuse_kind(file, name, arrays[name], kind)
            if arrays[name].ndim != num_dimensions or len(arrays[name]) != len(last["labels"]):
                raise RecordError(f"{file} does not fit the others: {name} has shape {arrays[name].shape}")
    about: dict[str, Any] = {name: last[name] for name in ("labels", "tasks", "is_test")}
    return Representations([arrays["features"].astype("float64") for arrays in read.values()], **about)


def columns_of(file: Path) -> Columns | None:
    """Return the columns of a log that a record may have; None where it has none."""
    return read_columns(file) if file.exists() else None


def results_of(folder: Path, matrix: Mapping[str, Any]) -> Results:
    """Return what every metric is a function of; ``matrix`` is the content of ``matrix.json``."""
    from clbench.evaluate.looks import Anytime
    from clbench.evaluate.results import Results

    sizes = Sizes.of(matrix)
    log, looks = predictions_of(folder), columns_of(folder / "anytime.parquet")
    reliability, representations = columns_of(folder / "reliability.parquet"), representations_of(folder)
    _check_predictions(folder / "predictions", log, sizes)
    if looks is not None:
        _check_looks(folder / "anytime.parquet", looks, sizes)
    if reliability is not None:
        _check_reliability(folder / "reliability.parquet", reliability, sizes)
    if representations is not None:
        _refuse_outside(folder / "probe", "labels", representations.labels, 0, sizes.num_classes)
        _refuse_outside(folder / "probe", "tasks", representations.tasks, 0, sizes.num_tasks)
    with told_in_one_line(folder):
        watched = Anytime.from_log(looks, sizes.num_tasks) if looks else None
        return Results.from_log(log, sizes.num_tasks, watched, reliability, representations)


def numbered(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """Return the files whose names match, in the order of their numbers."""
    found = {path: name.fullmatch(path.name) for path in folder.glob("*")}
    numbers = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(numbers, key=lambda path: numbers[path])


def _check_predictions(file: Path, log: Columns, sizes: Sizes) -> None:
    _refuse_outside(file, "after_task", log["after_task"], -1, sizes.num_tasks)
    _refuse_outside(file, "task", log["task"], 0, sizes.num_tasks)
    for name in ("label", "prediction", "masked_prediction"):
        _refuse_outside(file, name, log[name], 0, sizes.num_classes)


def _check_looks(file: Path, looks: Columns, sizes: Sizes) -> None:
    from clbench.evaluate.looks import COLUMNS

    _refuse_without(file, looks, COLUMNS)
    for name in COLUMNS:
        _refuse_kind(file, name, looks[name], "iu")
    _refuse_outside(file, "task", looks["task"], -1, sizes.num_tasks)
    _refuse_outside(file, "in_task", looks["in_task"], 0, sizes.num_tasks)
    _refuse_shares(file, looks)


def _check_reliability(file: Path, counts: Columns, sizes: Sizes) -> None:
    from clbench.evaluate.metrics.calibration import NUM_BINS

    _refuse_without(file, counts, ("class", "bin", "num", "hits", "confidence"))
    for name in ("class", "bin", "num", "hits"):
        _refuse_kind(file, name, counts[name], "iu")
    _refuse_kind(file, "confidence", counts["confidence"], "f")
    _refuse_outside(file, "class", counts["class"], 0, sizes.num_classes)
    _refuse_outside(file, "bin", counts["bin"], 0, NUM_BINS)
    _refuse_shares(file, counts)


def _refuse_without(file: Path, columns: Mapping[str, object], needed: Any) -> None:
    missing = sorted(set(needed) - columns.keys())
    if missing:
        raise RecordError(f"{file} does not hold {', '.join(missing)}"[:300])


def _refuse_kind(file: Path, name: str, values: NDArray[np.generic], kinds: str) -> None:
    if values.dtype.kind not in kinds:
        raise RecordError(f"{file} holds {values.dtype} as {name}")


def _refuse_outside(file: Path, name: str, values: NDArray[Any], low: int, beyond: int) -> None:
    """Refuse a number below ``low``, or ``beyond`` and above; before the first evaluation there is none."""
    if len(values) and not (low <= values.min() and values.max() < beyond):
        raise RecordError(
            f"{file} holds a {name} outside {low}..{beyond - 1}: {values.min()}..{values.max()}"
        )


def _refuse_shares(file: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    hits, num = columns["hits"], columns["num"]
    if not ((num > 0) & (hits >= 0) & (hits <= num)).all():
        raise RecordError(f"{file} holds more hits than tries")
