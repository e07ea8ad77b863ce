"""Keep what a run leaves behind: one folder, whose files are written whole or not at all."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import UserError
from clbench.files import append_line, make_folder, make_new_folder, write_bytes, write_text
from clbench.foreign import check_parquet, read_text
from clbench.records.spec import RunSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from clbench.evaluate.representations import Representations
    from clbench.evaluate.results import Results

LOG_FILE = re.compile(r"after-task-(\d+)\.parquet")
PROBE_FILE = re.compile(r"after-task-(\d+)\.safetensors")
LONGEST_NAME = 40  # characters that a component may take in a folder's name


class RecordError(UserError, ValueError):
    """A folder or file that is not, or no longer, what a run wrote."""


@dataclass(frozen=True)
class Record:
    """The folder of one run; ``create`` or ``open`` it."""

    path: Path
    spec: RunSpec
    remembered: dict[str, Any] | None = field(default=None, repr=False, compare=False)  # see ``remembering``

    @classmethod
    def create(cls, out: Path, spec: RunSpec) -> Record:
        """Make a new folder in ``out`` for a run that is about to start; nothing is overwritten."""
        path = make_new_folder(out / f"{short_name(spec)}_s{spec.run.seed}_{spec.id[:8]}")
        record = cls(path, spec)
        record.write_text("spec.toml", spec.to_toml())
        return record

    @classmethod
    def open(cls, path: Path) -> Record:
        """Read the record in a folder; RecordError says what was looked for."""
        if not path.is_dir():
            raise RecordError(f"no run in {path}: there is no such folder")
        try:
            text = (path / "spec.toml").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RecordError(f"no run in {path}: it has no spec.toml") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"cannot read {path / 'spec.toml'}: {_first_line(error)}") from error
        try:
            return cls(path, RunSpec.from_toml(text))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RecordError(f"{path / 'spec.toml'} is no spec of a run: {_first_line(error)}") from error

    def remembering(self) -> Record:
        """Return the same record as a report reads it: each JSON file once, whoever changes it later.

        Only for what is finished, and for as long as one report lasts: a run reads its files anew each time.
        """
        return replace(self, remembered={}) if self.remembered is None else self

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end: its metrics are the last thing that is computed."""
        return (self.path / "metrics.json").is_file()

    @property
    def version(self) -> str:
        """The version of clbench that made the record; "unknown" where it does not say."""
        if not (self.path / "environment.json").is_file():
            return "unknown"
        return str(self.read_json("environment.json").get("packages", {}).get("clbench") or "unknown")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the record."""
        write_text(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the record: keys sorted, numpy values as plain ones, NaN as null."""
        write_text(self.path / name, to_json(value) + "\n")
        if self.remembered is not None:
            self.remembered.pop(name, None)

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file of the record, not to be changed; RecordError if there is none."""
        if self.remembered is None:
            return _read_json(self.path / name)
        if name not in self.remembered:
            self.remembered[name] = _read_json(self.path / name)
        return self.remembered[name]

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl: the time (UTC), the kind, and the fields."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = {"time": now, "event": kind, **_plain(fields)}
        append_line(self.path / "events.jsonl", json.dumps(event, ensure_ascii=False, allow_nan=False))

    def write_predictions(self, after_task: int, columns: dict[str, NDArray[np.generic]]) -> None:
        """Write the prediction log of the evaluation after a task (0-based); equal columns, equal bytes."""
        make_folder(self.path / "predictions")
        name = f"after-task-{after_task:02d}" if after_task >= 0 else "before"
        _write_columns(self.path / "predictions" / f"{name}.parquet", columns)

    def write_reliability(self, columns: dict[str, NDArray[np.generic]]) -> None:
        """Write how often what was predicted with which confidence was right, in the last evaluation."""
        _write_columns(self.path / "reliability.parquet", columns)

    def write_representations(self, after_task: int, tensors: dict[str, Tensor]) -> None:
        """Write the features of the probe set after a task (0-based)."""
        from safetensors.torch import save

        make_folder(self.path / "probe")
        write_bytes(self.path / "probe" / f"after-task-{after_task:02d}.safetensors", save(tensors))

    def representations(self) -> Representations | None:
        """Return the features of the probe set; None in a record that has none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from clbench.evaluate.representations import Representations

        files = _numbered(self.path / "probe", PROBE_FILE)
        try:
            read = [load_file(file) for file in files]
        except (OSError, SafetensorError) as error:
            raise RecordError(f"cannot read {self.path / 'probe'}: {_first_line(error)}") from error
        if not read:
            return None
        about = {name: read[-1][name] for name in ("labels", "tasks", "is_test")}
        return Representations([each["features"].astype("float64") for each in read], **about)

    def write_anytime(self, columns: dict[str, NDArray[np.generic]]) -> None:
        """Write the log of what was looked at while the strategy learnt, as it is so far."""
        _write_columns(self.path / "anytime.parquet", columns)

    def anytime(self) -> dict[str, NDArray[np.generic]] | None:
        """Return that log; None in a record that has none."""
        return self._columns("anytime.parquet")

    def predictions(self) -> dict[str, NDArray[np.generic]]:
        """Return the logs of all evaluations, one after another; columns without rows before the first."""
        import numpy as np

        from clbench.evaluate.results import LOG_TYPES

        before = self.path / "predictions" / "before.parquet"
        files = [*([before] if before.is_file() else []), *_numbered(self.path / "predictions", LOG_FILE)]
        logs = [_read_columns(file) for file in files]
        if not logs:
            return {name: np.empty(0, kind) for name, kind in LOG_TYPES.items()}
        return {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}

    def results(self) -> Results:
        """Return what every metric is a function of; it is known from the first task's end on."""
        if self.remembered is None:
            return self._results()
        if "results" not in self.remembered:
            self.remembered["results"] = self._results()
        results: Results = self.remembered["results"]
        return results

    def _results(self) -> Results:
        from clbench.evaluate.looks import Anytime
        from clbench.evaluate.results import Results

        num_tasks = len(self.read_json("matrix.json")["classes_of_task"])
        log = self.anytime()
        looks = Anytime.from_log(log, num_tasks) if log else None
        reliability, representations = self._columns("reliability.parquet"), self.representations()
        return Results.from_log(self.predictions(), num_tasks, looks, reliability, representations)

    def _columns(self, name: str) -> dict[str, NDArray[np.generic]] | None:
        file = self.path / name
        return _read_columns(file) if file.is_file() else None


def short_name(spec: RunSpec) -> str:
    """Return ``<stream>_<strategy>-<petl>_<backbone>`` in characters that every file system takes."""
    stream, strategy, module, backbone = (
        safe_name(part.name) for part in (spec.stream, spec.strategy, spec.petl, spec.backbone)
    )
    return f"{stream}_{strategy}-{module}_{backbone}"


def to_json(value: Any) -> str:
    """Return a value as JSON that reads well: a key or a row of numbers on each line."""
    return _indented(_plain(value), "")


def safe_name(name: str) -> str:
    """Reduce a component's name to a short stem: ``dir/er.py:ER`` becomes ``er-ER``."""
    stems = [re.split(r"[/\\]", piece.rstrip("/\\"))[-1].removesuffix(".py") for piece in name.split(":")]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(stems)).strip("-.")
    return safe[:LONGEST_NAME].rstrip("-.") or "unnamed"


def _plain(value: Any) -> Any:
    """Return the value in the types that JSON has; numpy's scalars and arrays answer to ``tolist``."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if value.dtype.kind == "f":  # a wide matrix at once
        import numpy as np

        return np.where(np.isfinite(value), value, np.array(None)).tolist()
    return _plain(value.tolist())


def _indented(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{json.dumps(key)}: {_indented(value[key], deeper)}" for key in sorted(value)]
        opening, closing = "{}"
    elif isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value):
        rows = [_indented(each, deeper) for each in value]
        opening, closing = "[]"
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return f"{opening}\n" + ",\n".join(deeper + row for row in rows) + f"\n{indent}{closing}"


def _read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"cannot read {file}: {_first_line(error)}") from error


def _write_columns(file: Path, columns: dict[str, NDArray[np.generic]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer, compression="zstd")
    write_bytes(file, buffer.getvalue().to_pybytes())


def _read_columns(file: Path) -> dict[str, NDArray[np.generic]]:
    from pyarrow import ArrowException, parquet

    try:
        check_parquet(file)
        table = parquet.read_table(file, memory_map=False)
    except (OSError, ValueError, ArrowException) as error:
        raise RecordError(f"cannot read {file}: {_first_line(error)}") from error
    return {name: table[name].to_numpy() for name in table.column_names}


def _numbered(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """Return the files whose names match, in the order of their numbers."""
    found = {path: name.fullmatch(path.name) for path in folder.glob("*")}
    numbers = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(numbers, key=lambda path: numbers[path])


def _first_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error) or type(error).__name__).splitlines()[0]
