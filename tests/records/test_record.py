"""Show that a record is written whole, read back as it was, and never overwritten."""

from __future__ import annotations

import errno
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.evaluate import Results
from clbench.files import WriteError, append_line, make_folder, write_text
from clbench.outside.reading import RecordError
from clbench.records.environment import commit, environment
from clbench.records.json_text import to_json
from clbench.records.record import Record, short_name
from clbench.records.spec import Part, RunOptions, RunSpec


def make_spec(stream: str = "split-digits", strategy: str = "lae", seed: int = 0) -> RunSpec:
    return RunSpec(
        stream=Part(name=stream, options={"tasks": "5"}),
        strategy=Part(name=strategy, options={"epochs": 3, "ema_decay": 0.999}),
        backbone=Part(name="vit-micro"),
        petl=Part(name="adapter"),
        run=RunOptions(seed=seed),
    )


def log_of(after_task: int, tasks: list[int], hits: list[bool]) -> dict[str, np.ndarray]:
    """A prediction log with one image a task: label = task, right where ``hits`` says so."""
    labels = np.array(tasks, np.int32)
    predictions = np.where(hits, labels, labels + 1).astype(np.int32)
    return {
        "after_task": np.full(len(tasks), after_task, np.int16),
        "task": np.array(tasks, np.int16),
        "row": np.arange(len(tasks), dtype=np.int64),
        "label": labels,
        "prediction": predictions,
        "masked_prediction": labels,
        "confidence": np.full(len(tasks), 0.5, np.float32),
        "label_score": np.full(len(tasks), 0.25, np.float32),
    }


def test_open_gives_back_what_create_was_given(tmp_path: Path) -> None:
    spec = make_spec(seed=7)
    record = Record.create(tmp_path / "new" / "runs", spec)
    assert record.path.name == f"split-digits_lae-adapter_vit-micro_s7_{spec.id[:8]}"
    assert Record.open(record.path) == record


def test_a_second_run_of_a_spec_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [Record.create(tmp_path, make_spec()).path.name for _ in range(3)]
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]


@pytest.mark.parametrize(
    ("stream", "strategy", "expected"),
    [
        ("folder:/data sets/My Birds/", "naive", "folder-My-Birds_naive-adapter_vit-micro"),
        ("avalanche:SplitMNIST", "naive", "avalanche-SplitMNIST_naive-adapter_vit-micro"),
        ("split-digits", "../mine/er.py:ER", "split-digits_er-ER-adapter_vit-micro"),
        ("..", "a" * 99, f"unnamed_{'a' * 40}-adapter_vit-micro"),
    ],
)
def test_folder_names_are_short_and_safe(stream: str, strategy: str, expected: str) -> None:
    assert short_name(make_spec(stream, strategy)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "it has no spec.toml"),
        (b"\xff\xfe\x00garbage", "codec can't decode"),
        (b"[stream", "is no spec of a run"),
        (b"[stream]\nname = 'split-digits'\n", "is no spec of a run"),
        (b"stream = 3\n[run]\n", "is no spec of a run"),
        (b"[surprise]\nname = 'x'\n[run]\n", "is no spec of a run"),
    ],
)
def test_open_refuses_garbage_in_one_line(tmp_path: Path, text: bytes | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "spec.toml").write_bytes(text)
    with pytest.raises(RecordError, match=reason) as caught:
        Record.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_says_when_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        Record.open(tmp_path / "nowhere")


def test_json_is_sorted_and_plain_whatever_was_given() -> None:
    value = {
        "b": np.float32(0.5),
        "a": np.array([[1.0, np.nan], [np.inf, 4.0]]),
        "c": {"n": np.int64(3), "yes": np.bool_(True), "no": None, "nothing": [], "path": Path("x")},
    }
    text = to_json(value)
    assert json.loads(text) == {
        "a": [[1.0, None], [None, 4.0]],
        "b": 0.5,
        "c": {"n": 3, "yes": True, "no": None, "nothing": [], "path": "x"},
    }
    assert list(json.loads(text)) == ["a", "b", "c"]
    assert "    [1.0, null],\n" in text  # a row of a matrix is a line
    assert to_json(dict(reversed(value.items()))) == text


def test_read_json_says_what_is_missing_or_torn(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    with pytest.raises(RecordError, match=r"costs\.json: No such file"):
        record.read_json("costs.json")
    record.write_text("costs.json", '{"flops": ')
    with pytest.raises(RecordError, match=r"cannot read .*costs\.json: Expecting value"):
        record.read_json("costs.json")


def test_a_record_reads_anew_unless_it_is_told_to_remember(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    record.write_json("value.json", 1)
    remembering = record.remembering()
    assert (remembering, remembering.remembering()) == (record, remembering)
    assert remembering.read_json("value.json") == 1
    record.write_json("value.json", 2)
    assert record.read_json("value.json") == 2
    assert remembering.read_json("value.json") == 1
    assert record.remembering().read_json("value.json") == 2
    remembering.write_json("value.json", 3)  # its own writing it knows of
    assert remembering.read_json("value.json") == 3


def test_events_are_lines_with_a_time_in_utc(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    record.event("started")
    record.event("task finished", task=np.int64(0), accuracies=[0.5, float("nan")])
    first, second = map(json.loads, (record.path / "events.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["event"] == "started"
    assert datetime.fromisoformat(first["time"]).utcoffset() == timedelta(0)
    del second["time"]
    assert second == {"event": "task finished", "task": 0, "accuracies": [0.5, None]}


def test_an_event_after_a_torn_line_starts_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b"')
    append_line(file, '{"c": 3}')
    assert file.read_text() == '{"a": 1}\n{"b"\n{"c": 3}\n'


def test_predictions_come_back_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    for after_task in (100, 2, 11):
        record.write_predictions(after_task, log_of(after_task, [0, 1], [True, False]))
    assert sorted(path.name for path in (record.path / "predictions").iterdir()) == [
        "after-task-02.parquet",
        "after-task-100.parquet",
        "after-task-11.parquet",
    ]
    read = record.predictions()
    assert read["after_task"].tolist() == [2, 2, 11, 11, 100, 100]
    assert {name: column.dtype for name, column in read.items()} == {
        name: column.dtype for name, column in log_of(0, [0], [True]).items()
    }


def test_equal_predictions_are_equal_bytes(tmp_path: Path) -> None:
    records = [Record.create(tmp_path, make_spec()) for _ in range(2)]
    for record in records:
        record.write_predictions(0, log_of(0, [0] * 50, [True] * 50))
    first, second = (record.path / "predictions" / "after-task-00.parquet" for record in records)
    assert first.read_bytes() == second.read_bytes()


def test_results_are_counted_from_the_predictions(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    assert np.isnan(Results.from_log(record.predictions(), num_tasks=2).accuracy).all()
    record.write_predictions(0, log_of(0, [0, 0], [True, True]))
    record.write_predictions(1, log_of(1, [0, 0, 1, 1], [True, False, True, True]))
    record.write_json("matrix.json", {"accuracy": [[None] * 2] * 2, "classes_of_task": [[0], [1]]})
    np.testing.assert_array_equal(record.results().accuracy, [[1.0, np.nan], [0.5, 1.0]])


def test_a_torn_log_is_named(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    record.write_predictions(0, log_of(0, [0], [True]))
    file = record.path / "predictions" / "after-task-00.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RecordError, match=r"cannot read .*after-task-00\.parquet"):
        record.predictions()


def test_a_run_is_finished_once_its_metrics_are_there(tmp_path: Path) -> None:
    record = Record.create(tmp_path, make_spec())
    assert not record.is_finished
    record.write_json("metrics.json", {"accuracy": 0.5})
    assert record.is_finished


def test_a_crash_before_the_renaming_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record.create(tmp_path, make_spec())
    record.write_json("metrics.json", {"accuracy": 0.5})

    def crash(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        record.write_json("metrics.json", {"accuracy": 0.9})
    assert record.read_json("metrics.json") == {"accuracy": 0.5}
    assert {path.name for path in record.path.iterdir()} == {"spec.toml", "metrics.json", "manifest.sha256"}


def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.json"
    write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError) as caught:
        write_text(file, "new")
    assert str(caught.value) == (
        f"cannot write {file}: no space left on device; free some space or choose another folder"
    )
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_a_folder_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"cannot write {folder}: .*choose another folder"):
            make_folder(folder)
        with pytest.raises(UserError, match="choose another folder"):
            Record.create(folder, make_spec())


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="here a folder cannot be closed to its owner"
)
def test_an_unwritable_folder_is_said_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission denied; choose a folder that you may write to"):
        Record.create(tmp_path, make_spec())


def test_environment_names_versions_and_machine_and_fits_json() -> None:
    found = json.loads(to_json(environment()))
    assert found["packages"]["numpy"] == np.__version__
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["memory_bytes"] > 0


def test_a_folder_outside_git_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
