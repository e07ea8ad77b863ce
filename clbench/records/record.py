"""Keep what a run leaves behind: one folder, whose files are written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.files import (
    WriteError,
    append_line,
    make_folder,
    rename_to_new,
    temporary_folder,
    write_bytes,
    write_error,
)
from clbench.outside.reading import RecordError, first_line, read_bytes, read_json, read_text
from clbench.records import manifest, shapes
from clbench.records.histories import history_from
from clbench.records.json_text import json_file, plain
from clbench.records.logs import columns_of, predictions_of, representations_of, results_of
from clbench.records.spec import RunSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from clbench.data.history import History
    from clbench.evaluate.representations import Representations
    from clbench.evaluate.results import Results

VARIANTS = "variants"  # the folder of what the variants predicted
SHARED = ("hashes.json", "environment.json", "history.json")  # what holds for a run's variants, too
LONGEST_NAME = 40  # characters that a component may take in a folder's name


@dataclass(frozen=True)
class Record:
    """The folder of one run; ``create`` or ``open`` it."""

    path: Path
    spec: RunSpec
    remembered: dict[str, Any] | None = field(default=None, repr=False, compare=False)  # see ``remembering``
    within: Record | None = None  # the run that this is a variant of, whose folder this lies in

    @classmethod
    def create(
        cls,
        out: Path,
        spec: RunSpec,
        contents: Mapping[str, str] = {},
        start: Mapping[str, bytes] = {},
    ) -> Record:
        """Make a new folder in ``out`` for a run that is about to start; nothing is overwritten.

        ``contents`` are texts by file name that are in it from the start: the folder has its name when it is
        complete, so that one that is there can be resumed. ``start`` is what a run that learns on has from
        the one before, by file name.
        """
        texts = {**contents, "spec.toml": spec.to_toml()}
        files = {name: text.encode() for name, text in texts.items()}
        files |= {name: data for name, data in start.items() if not name.startswith("checkpoint/")}
        make_folder(out)
        named = out / f"{short_name(spec)}_s{spec.run.seed}_{spec.id[:8]}"
        try:
            with temporary_folder(named) as folder:
                for name, data in {**files, **start, manifest.NAME: manifest.listing(files).encode()}.items():
                    make_folder((folder / name).parent)
                    write_bytes(folder / name, data)
                return cls(rename_to_new(folder, named), spec)
        except WriteError:
            raise
        except OSError as error:
            raise write_error(named, error) from error

    @classmethod
    def open(cls, path: Path) -> Record:
        """Read the record in a folder; RecordError says what was looked for."""
        file = path / "spec.toml"
        if not path.is_dir():
            raise RecordError(f"no run in {path}: there is no such folder")
        if not file.exists():
            raise RecordError(f"no run in {path}: it has no spec.toml")
        text = read_text(file)
        try:
            return cls(path, RunSpec.from_toml(text))
        except Exception as error:  # a table where a number should be, and whatever else may stand there
            raise RecordError(f"{file} is no spec of a run: {first_line(error)}") from error

    def remembering(self) -> Record:
        """Return the same record as a report reads it: each JSON file once, whoever changes it later.

        Only for what is finished, and for as long as one report lasts: a run reads its files anew each time.
        """
        return replace(self, remembered={}) if self.remembered is None else self

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end: its metrics are the last thing that is computed."""
        is_there = (self.path / "metrics.json").is_file()
        return is_there and (self.within is None or self.within.is_finished)

    @property
    def version(self) -> str:
        """The version of clbench that made the record; "unknown" where it does not say."""
        if self.within is not None:
            return self.within.version
        if not (self.path / "environment.json").exists():
            return "unknown"
        return str(self.read_json("environment.json").get("packages", {}).get("clbench") or "unknown")

    @property
    def command(self) -> str:
        """What was typed to start the run; nothing where that is not known."""
        try:
            return read_text(self.path / "command.txt").strip()
        except RecordError:
            return ""

    @property
    def is_listed(self) -> bool:
        """Whether there is a list of its files' checksums; a record of an earlier version has none."""
        return (self.path / manifest.NAME).exists()

    def history(self) -> History | None:
        """Return which tasks are learnt when; None in a record of a version that did not write it."""
        if not (self.path / "history.json").exists():
            return None
        return history_from(self.read_json("history.json"))

    def changes(self) -> list[str]:
        """Return the files that are no longer what the run wrote; nothing in a record without a list.

        Figures are nobody's source of numbers: those that were removed are not missed.
        """
        return list(self._once("changes", self._changes)) if self.within is None else []

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the record."""
        self._write(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the record: keys sorted, numpy values as plain ones, NaN as null."""
        self._write(name, json_file(value))
        if self.remembered is not None:
            self.remembered.pop(name, None)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics, the last file: it means "finished". From now on the list is complete."""
        for figure in sorted((self.path / "figures").glob("*")):
            manifest.note(self.path, f"figures/{figure.name}", read_bytes(figure))
        manifest.close(self.path, {"metrics.json": json_file(metrics)})
        write_bytes(self.path / "metrics.json", json_file(metrics))

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file of the record, not to be changed.

        RecordError if there is none, or it is not what a run writes there.
        """
        if self.within is not None and name in SHARED:
            return self.within.read_json(name)
        return self._once(name, lambda: self._read_json(name))

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl: the time (UTC), the kind, and the fields."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = {"time": now, "event": kind, **plain(fields)}
        append_line(self.path / "events.jsonl", json.dumps(event, ensure_ascii=False, allow_nan=False))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write any other file of the record."""
        self._write(name, data)

    def write_predictions(self, after_task: int, columns: dict[str, NDArray[np.generic]]) -> None:
        """Write the prediction log of the evaluation after a task (0-based); equal columns, equal bytes."""
        name = f"after-task-{after_task:02d}" if after_task >= 0 else "before"
        self._write(f"predictions/{name}.parquet", _as_parquet(columns))

    def write_reliability(self, columns: dict[str, NDArray[np.generic]]) -> None:
        """Write how often what was predicted with which confidence was right, in the last evaluation."""
        self._write("reliability.parquet", _as_parquet(columns))

    def write_representations(self, after_task: int, tensors: dict[str, Tensor]) -> None:
        """Write the features of the probe set after a task (0-based)."""
        from safetensors.torch import save

        self._write(f"probe/after-task-{after_task:02d}.safetensors", save(tensors))

    def write_anytime(self, columns: dict[str, NDArray[np.generic]]) -> None:
        """Write the log of what was looked at while the strategy learnt, as it is so far."""
        self._write("anytime.parquet", _as_parquet(columns))

    def representations(self) -> Representations | None:
        """Return the features of the probe set; None in a record that has none."""
        return representations_of(self.path)

    def anytime(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the log of the looks; None in a record that has none."""
        return columns_of(self.path / "anytime.parquet")

    def predictions(self) -> dict[str, NDArray[np.generic]]:
        """Return the logs of all evaluations, one after another; columns without rows before the first."""
        return predictions_of(self.path)

    def results(self) -> Results:
        """Return what every metric is a function of; it is known from the first task's end on."""
        results: Results = self._once("results", lambda: results_of(self.path, self.read_json("matrix.json")))
        return results

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        """Read something, or return what was read before in a record that remembers."""
        if self.remembered is None:
            return read()
        if name not in self.remembered:
            self.remembered[name] = read()
        return self.remembered[name]

    def _read_json(self, name: str) -> Any:
        value = read_json(self.path / name)
        shapes.check(self.path / name, value)
        return value

    def _changes(self) -> list[str]:
        hashes = manifest.known(self.path)
        if hashes is None:
            return []
        names = [name for name in hashes if not name.startswith("figures/") or (self.path / name).exists()]
        return manifest.changed(self.path, hashes, names)

    def _write(self, name: str, data: bytes) -> None:
        """Write a file after it is listed: a kill in between leaves a line too many, never one too few."""
        if self.within is not None:
            self.within._write(f"{VARIANTS}/{self.path.name}/{name}", data)
            return
        make_folder((self.path / name).parent)
        manifest.note(self.path, name, data)
        write_bytes(self.path / name, data)


def short_name(spec: RunSpec) -> str:
    """Return ``<stream>_<strategy>-<petl>_<backbone>`` in characters that every file system takes.

    Behind the backbone stands what it is quantised and compressed by, if it is.
    """
    stream, strategy, module, backbone = (
        safe_name(part.name) for part in (spec.stream, spec.strategy, spec.petl, spec.backbone)
    )
    in_form = "".join(f"-{safe_name(part.name)}" for part in (spec.quant, spec.compress) if part)
    return f"{stream}_{strategy}-{module}_{backbone}{in_form}"


def safe_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Reduce a component's name to a short stem: ``dir/er.py:ER`` becomes ``er-ER``."""
    stems = [re.split(r"[/\\]", piece.rstrip("/\\"))[-1].removesuffix(".py") for piece in name.split(":")]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(stems)).strip("-.")
    return safe[:longest].rstrip("-.") or "unnamed"


def _as_parquet(columns: Mapping[str, NDArray[np.generic]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer, compression="zstd", write_page_checksum=True)
    data: bytes = buffer.getvalue().to_pybytes()
    return data
