"""Loggers hear what a run tells, write it into the record, and go on where a stopped run goes on."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from clbench import loggers
from clbench.cli.app import main
from clbench.loggers.logger import Axis, Logger, Sink
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.registry import UnknownNameError
from clbench.runs.line import execute, resume
from clbench.streams import Places

LOSS = torch.tensor(0.5)
STEPS_OF_EPOCH = 5  # of small_spec: 5 classes of 8 images in batches of 8


class Kept(Sink):
    """Keeps everything in lists."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, dict[str, float]]] = []
        self.ends: list[bool] = []

    def open(self, spec: RunSpec, folder: Path) -> None:
        self.folder = folder

    def scalars(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        self.points.append((axis, place, dict(values)))

    def finish(self, metrics: Mapping[str, float], figures: Mapping[str, Path]) -> None:
        self.metrics = metrics

    def close(self, *, is_finished: bool) -> None:
        self.ends.append(is_finished)


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as on a machine where nobody has logged in."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # it would look for a network
    wandb.teardown()  # it reads the environment once a process
    yield
    wandb.teardown()


def small_spec() -> RunSpec:
    stream = {"tasks": "2", "train_per_class": 8, "test_per_class": 4, "validation_rate": 0.0}
    return resolve({"stream": stream, "strategy": {"name": "naive", "epochs": 2, "batch_size": 8}})


# what is told


def test_together_passes_on_everything_that_a_progress_hears() -> None:
    hooks = {name for name in vars(Progress) if not name.startswith("_")}
    assert hooks == {name for name in vars(loggers.Together) if not name.startswith("_")}
    heard = []

    class Hears(Progress):
        def __getattribute__(self, name: str) -> object:
            return lambda *values: heard.append((name, values))

    together = loggers.Together([Hears(), Hears()])
    for number, name in enumerate(sorted(hooks)):
        num_values = getattr(Progress, name).__code__.co_argcount - 1
        values = tuple(range(number, number + num_values))
        getattr(together, name)(*values)
        assert heard[-2:] == [(name, values)] * 2


def test_losses_are_read_twice_a_second_and_counted_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("clbench.loggers.logger.time.monotonic", lambda: now)
    kept = Kept()
    logger = Logger(kept)
    logger.run_started(small_spec(), tmp_path, 2)
    logger.run_resumed(10)
    for step in range(10):
        now = 0.125 * step
        logger.step_done(8, LOSS)
    assert kept.points == [("step", place, {"train/loss": 0.5}) for place in (11, 15, 19)]


def test_an_unknown_accuracy_is_not_told(tmp_path: Path) -> None:
    kept = Kept()
    logger = Logger(kept)
    logger.task_finished(0, [math.nan])
    logger.task_finished(2, [0.5, math.nan, 1.0])
    row = {"accuracy/task-01": 0.5, "accuracy/task-03": 1.0, "accuracy/average": 0.75}
    assert kept.points == [("task", 3, row)]


def test_a_logger_that_comes_late_is_told_the_tasks_before(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(small_spec().to_toml())
    (tmp_path / "matrix.json").write_text(
        '{"accuracy": [[0.75, 0.1], [null, null]], "classes_of_task": [[0], [1]]}'
    )
    kept = Kept()
    Logger(kept).run_started(small_spec(), tmp_path, 2)
    assert kept.points == [("task", 1, {"accuracy/task-01": 0.75, "accuracy/average": 0.75})]


def test_a_run_that_does_not_finish_closes_its_loggers_as_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setattr(loggers, "named", lambda name: Logger(kept))
    with loggers.joined(["one"], Progress()) as progress:
        progress.run_started(small_spec(), tmp_path, 2)
    assert kept.ends == [False]


def test_a_logger_that_never_began_is_not_closed() -> None:
    kept = Kept()
    with Logger(kept):
        pass
    assert kept.ends == []


# names


def test_an_unknown_logger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--logger", "tensorbord", "--out", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err.splitlines()
    line = (
        "error: no 'tensorbord' among the loggers; did you mean 'tensorboard'? (allowed: tensorboard, wandb)"
    )
    assert told[-1] == line
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UnknownNameError, match="no 'x' among the loggers"):
        loggers.named("x")


@pytest.mark.parametrize("name", loggers.SINKS)
def test_a_missing_package_is_one_line_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()  # such as W&B leaves where it was run: no package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ImportError) as raised:
        loggers.named(name)
    line = f'--logger {name} needs a package that is not installed: pip install "clbench[{name}]"'
    assert str(raised.value) == line


# the real packages


@pytest.mark.slow
def test_a_stopped_and_resumed_run_is_read_back_from_both(
    tmp_path: Path, no_key: None, interrupted: Callable[[int], Progress]
) -> None:
    pytest.importorskip("tensorboard")
    places = Places(None, tmp_path / "cache")
    both = ["tensorboard", "wandb"]
    spec = small_spec()
    with pytest.raises(KeyboardInterrupt), loggers.joined(both, interrupted(STEPS_OF_EPOCH + 2)) as progress:
        execute(spec, out=tmp_path / "runs", places=places, progress=progress, command="")
    (folder,) = (tmp_path / "runs").iterdir()
    with loggers.joined(both, Progress()) as progress:
        record = resume(folder, places=places, progress=progress)
    check_tensorboard(record)
    check_wandb(record)
    assert (folder / "events.jsonl").read_text().count("task finished") == 2


def check_tensorboard(record: Record) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(record.path / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert {1, STEPS_OF_EPOCH + 1} <= set(steps)  # of each process, the first is told at once
    assert steps == sorted(steps)
    assert steps[-1] <= 2 * 2 * STEPS_OF_EPOCH
    rows = record.read_json("matrix.json")["accuracy"]
    curves = {
        name: {each.step: each.value for each in events.Scalars(name)} for name in events.Tags()["scalars"]
    }
    assert curves["accuracy/task-01"] == pytest.approx({1: rows[0][0], 2: rows[1][0]})
    assert curves["accuracy/task-02"] == pytest.approx({2: rows[1][1]})
    assert curves["accuracy/average"] == pytest.approx({1: rows[0][0], 2: sum(rows[1]) / 2})
    known = {name: value for name, value in record.read_json("metrics.json").items() if value is not None}
    final = {name.removeprefix("metrics/"): value for name, value in curves.items() if "metrics/" in name}
    assert {name: list(value.values()) for name, value in final.items()} == {
        name: [pytest.approx(value)] for name, value in known.items()
    }
    figures = {f"figures/{file.stem}" for file in (record.path / "figures").glob("*.png")}
    assert set(events.Tags()["images"]) == figures
    options = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"strategy.epochs" in options


def check_wandb(record: Record) -> None:
    first, second = sorted((record.path / "wandb").glob("offline-run-*"))
    identifier = first.name.rpartition("-")[2]
    assert second.name.endswith(identifier)
    begun, ended = (read_wandb(folder / f"run-{identifier}.wandb") for folder in (first, second))
    assert begun["exit"] == [1]
    assert ended["exit"] == [0]
    config = {key: value for key, value in ended["config"][0].items() if key != "_wandb"}
    assert config == record.spec.to_dict()
    rows = record.read_json("matrix.json")["accuracy"]
    points = [point for point in begun["history"] + ended["history"] if "task" in point]
    assert {(point["task"], point["accuracy/task-01"]) for point in points} == {
        (1, rows[0][0]),
        (2, rows[1][0]),
    }
    steps = [point["step"] for point in begun["history"] + ended["history"] if "step" in point]
    assert {1, STEPS_OF_EPOCH + 1} <= set(steps)
    assert steps == sorted(steps)
    summary = {key: value for part in ended["summary"] for key, value in part.items()}
    metrics = record.read_json("metrics.json")
    known = {f"metrics/{name}": value for name, value in metrics.items() if value is not None}
    assert known.items() <= summary.items()
    assert {"figures/accuracy-matrix", "figures/accuracy-curve"} <= set(ended["history"][-1])


def read_wandb(file: Path) -> dict[str, list]:
    """Return what a file of W&B holds: a log in the format of LevelDB, in blocks of 32 kB."""
    from wandb.proto import wandb_internal_pb2 as messages

    found: dict[str, list] = {"exit": [], "config": [], "history": [], "summary": []}
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (1, 4):  # neither whole nor the last part
            continue
        record = messages.Record.FromString(whole)
        whole = b""
        if record.HasField("exit"):
            found["exit"].append(record.exit.exit_code)
        if record.HasField("run"):
            found["config"].append(values_of(record.run.config.update))
        if record.HasField("history"):
            found["history"].append(values_of(record.history.item))
        if record.HasField("summary"):
            found["summary"].append(values_of(record.summary.update))
    return found


def values_of(items) -> dict:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def test_wandb_mode_is_respected(tmp_path: Path, no_key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with loggers.joined(["wandb"], Progress()) as progress:
        progress.run_started(small_spec(), tmp_path, 2)
        progress.step_done(8, LOSS)
    assert not (tmp_path / "wandb").exists()
