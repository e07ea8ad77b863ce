"""Whatever has happened to one record, a report shows a sound one beside it, and says why not the other."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
import torch
from pyarrow import parquet
from safetensors.numpy import load_file, save

import clbench
from clbench.cli.app import main
from clbench.errors import UserError
from clbench.outside.reading import parse_toml
from clbench.records.record import Record
from clbench.report import report

Damage = Callable[[Path], object]
BYTES = {
    "empty": b"",
    "empty list": b"[]",
    "empty table": b"{}",
    "text": b'"x"',
    "null": b"null",
    "number": b"-1",
    "deep lists": b"[" * 100_000,
    "deep tables": b'{"a":' * 100_000,
    "deep and whole": b'{"accuracy":' + b"[" * 400 + b"]" * 400 + b"}",
    "deep TOML": b"a = " + b"[" * 50_000,
    "no text": bytes(range(256)),
    "not a number": b'{"accuracy": NaN}',
    "too large a number": b'{"accuracy": 1e999, "flops": ' + b"9" * 400 + b"}",
}
ODD = ("abc", [], {}, [None], [{}], {"a": {}}, None, -1, 0.5, True, 10**30, [[1]], ["a"])
FILES = (
    *("spec.toml", "metrics.json", "costs.json", "matrix.json", "hashes.json", "environment.json"),
    *("anytime.parquet", "reliability.parquet", "predictions/after-task-00.parquet"),
    *("predictions/after-task-02.parquet", "probe/after-task-01.safetensors"),
    *("command.txt", "events.jsonl", "manifest.sha256"),
)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def odd_values(value: Any) -> Iterator[Any]:
    """Every way to put something odd at one place of a tree, or to leave it out."""
    places = list(value) if isinstance(value, dict) else range(len(value))
    if len(places) > 8:  # of many alike, such as metrics, a few
        places = places[:3]
    for place in places:
        for odd in (*ODD, "left out"):
            changed = copy.deepcopy(value)
            if odd == "left out":
                del changed[place]
            else:
                changed[place] = odd
            yield changed
        if isinstance(value[place], (dict, list)) and value[place]:
            for inner in odd_values(value[place]):
                changed = copy.copy(value)
                changed[place] = inner
                yield changed


def odd_columns(columns: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Every way to spoil one column of a log."""
    for name, values in columns.items():
        num = len(values)
        for odd in (
            ["a"] * num,
            [None] * num,
            [[1]] * num,
            np.full(num, np.nan),
            np.full(num, -7),
            np.full(num, 2**40),
            np.full(num, 0.5, np.float32),
            np.zeros(num, bool),
        ):
            yield {**columns, name: odd}
        yield {other: its for other, its in columns.items() if other != name}
    yield {name: values[:0] for name, values in columns.items()}
    yield {name: values[:1] for name, values in columns.items()}


def odd_tensors(tensors: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for name, values in tensors.items():
        for odd in (values[:1], values[None], values.astype("float16"), values.astype("int8") - 9):
            yield {**tensors, name: odd}
        yield {other: its for other, its in tensors.items() if other != name}


def damages(file: Path) -> Iterator[Damage]:
    """Everything that may have happened to a file of a record."""
    yield from (truncated, Path.unlink, as_folder, as_pipe)
    for data in BYTES.values():
        yield lambda path, data=data: path.write_bytes(data)
    if file.suffix == ".json":
        for value in odd_values(json.loads(file.read_text())):
            yield lambda path, value=value: path.write_text(json.dumps(value))
    if file.suffix == ".toml":
        for value in odd_values(parse_toml(file.read_text())):
            try:
                text = tomli_w.dumps(value)
            except TypeError:  # nothing that TOML can hold
                continue
            yield lambda path, text=text: path.write_text(text)
    if file.suffix == ".parquet":
        read = {name: column.to_numpy() for name, column in zip(*_columns(file), strict=True)}
        for columns in odd_columns(read):
            yield lambda path, columns=columns: parquet.write_table(pa.table(columns), path)
    if file.suffix == ".safetensors":
        for tensors in odd_tensors(load_file(file)):
            yield lambda path, tensors=tensors: path.write_bytes(save(tensors))


def _columns(file: Path) -> tuple[list[str], list[Any]]:
    table = parquet.read_table(file)
    return table.column_names, table.columns


def some(found: Iterator[Damage], most: int) -> list[Damage]:
    """At most so many of them, evenly spread: a few kinds of each."""
    every = [*found]
    return every[:: max(1, -(-len(every) // most))]


@pytest.fixture
def whole(tmp_path: Path, write_run: Callable[..., Record]) -> Record:
    """A record that holds every kind of file, in a folder of its own."""
    record = write_run("naive")
    looks = {"step": [1, 2, 3] * 2, "images": [4, 8, 12] * 2, "in_task": [0, 1, 2] * 2, "task": [0, 1, 2] * 2}
    looks |= {"hits": [1] * 6, "num": [2] * 6, "exact": [1] * 3 + [0] * 3}
    record.write_anytime({name: np.array(values) for name, values in looks.items()})
    counts = {name: np.array([0, 1]) for name in ("class", "bin", "hits")}
    record.write_reliability({**counts, "num": np.array([3, 3]), "confidence": np.array([0.5, 0.7])})
    for task in range(3):
        features = torch.randn(6, 4, generator=torch.Generator().manual_seed(task))
        about = {"labels": torch.arange(6) % 2, "tasks": torch.arange(6) % 3, "is_test": torch.arange(6) > 2}
        record.write_representations(task, {"features": features, **about})
    by_task = [{"task": task, "stored_bytes": {"total": 10}, "flops": {"train": 1.0}} for task in range(3)]
    record.write_json("costs.json", {**record.read_json("costs.json"), "by_task": by_task})
    record.event("started")
    folder = tmp_path / "whole"
    shutil.move(record.path, folder)
    return Record.open(folder)


def spoilt(whole: Record, file: str, damage: Damage, runs: Path) -> Path:
    """Copy the record beside the others, and damage a file of the copy."""
    folder = runs / "spoilt"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole.path, folder)
    damage(folder / file)
    return folder


@pytest.mark.parametrize("most", [5, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", FILES)
def test_frames_show_the_sound_run_whatever_the_other_holds(
    file: str, most: int, tmp_path: Path, whole: Record, write_run: Callable[..., Record]
) -> None:
    sound = write_run("lae").path
    for damage in some(damages(whole.path / file), most):
        spoilt(whole, file, damage, tmp_path / "runs")
        runs = clbench.load_runs(tmp_path / "runs", recompute=True)
        assert str(sound) in set(runs.runs["run"])
        assert all(len(frame) for frame in (runs.metrics, runs.costs, runs.matrix, runs.summary))
        assert len(runs.costs_by_task) >= 0
        assert len(runs.predictions)
        told = [*runs.notes, *runs.warnings]
        assert all("\n" not in line and len(line) < 600 for line in told)
        if len(runs) == 1:
            assert any(line.startswith(("Left out: ", "Unfinished")) for line in runs.notes), told


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_report_shows_the_sound_run_whatever_the_other_holds(
    file: str,
    tmp_path: Path,
    whole: Record,
    write_run: Callable[..., Record],
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_run("lae")
    for damage in some(damages(whole.path / file), 6):
        spoilt(whole, file, damage, tmp_path / "runs")
        assert main(["report", str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")]) == 0
        told = capfd.readouterr()
        assert "lae-adapter" in told.out
        assert "Traceback" not in told.err


def test_joint_training_on_another_number_of_tasks_is_not_compared_with(
    tmp_path: Path, make_run: Callable[..., Record]
) -> None:
    own, joint = make_run(tmp_path, num_tasks=2), make_run(tmp_path, "joint", num_tasks=3)
    runs = clbench.load_runs(tmp_path)
    told = f"{own.path.name} is not compared with {joint.path.name}: the one has 2 tasks, the other 3"
    assert told in runs.warnings
    values = runs.metrics.set_index(["seed", "group", "metric"])["value"]
    assert np.isnan(values[0, "lae-adapter", "intransigence"])


@pytest.mark.slow
def test_seeds_with_another_number_of_tasks_do_not_end_a_report(
    tmp_path: Path, make_run: Callable[..., Record]
) -> None:
    for seed, num_tasks in enumerate((2, 3)):
        make_run(tmp_path / "runs", seed=seed, num_tasks=num_tasks)
    comparison = report([tmp_path / "runs"], tmp_path / "out", tmp_path / "page.html")
    assert any("number of tasks" in note for note in comparison.notes)
    assert [group.label for group in comparison.groups] == ["lae-adapter"]


@pytest.mark.parametrize("file", FILES)
def test_a_run_that_is_alone_is_refused_in_one_line(file: str, tmp_path: Path, whole: Record) -> None:
    for damage in (truncated, as_folder, BYTES["deep lists"], BYTES["no text"]):
        spoil = damage if callable(damage) else lambda path, data=damage: path.write_bytes(data)
        folder = spoilt(whole, file, spoil, tmp_path / "runs")
        try:
            num_groups, said = len(clbench.load_runs(folder).groups), ""
        except UserError as refused:
            num_groups, said = 0, str(refused)
        assert bool(said) == (num_groups == 0)  # a file may not be needed for what was asked
        assert "\n" not in said
