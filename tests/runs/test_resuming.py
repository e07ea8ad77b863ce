"""A run goes on only from what it wrote itself, and says where it goes on elsewhere than it was begun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clbench.cli.app import main
from clbench.devices import DeviceError
from clbench.errors import UserError
from clbench.files import temporary_path
from clbench.records import manifest
from clbench.records.lock import LockedError, only_writer
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.runs.line import execute, resume
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures")

SPEC = {
    "stream": {"tasks": "3", "train_per_class": 4, "test_per_class": 2},
    "backbone": {"weights": "none"},
    "strategy": {"name": "naive-linear", "epochs": 1, "batch_size": 8},
    "run": {"probe_images": 1},
}


class StoppedAfterTwoTasks(Progress):
    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        if task == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(None, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, places: Places) -> Path:
    out = tmp_path_factory.mktemp("begun")
    with pytest.raises(KeyboardInterrupt):
        execute(resolve(SPEC), out=out, places=places, progress=StoppedAfterTwoTasks(), command="clbench run")
    (folder,) = out.iterdir()
    return folder


@pytest.fixture
def stopped(begun: Path, tmp_path: Path) -> Path:
    """A run that was stopped in its third task, under another name."""
    return Path(shutil.copytree(begun, tmp_path / "stopped"))


def appended(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


@pytest.mark.parametrize("damage", [appended, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "spec.toml",
        "hashes.json",
        "history.json",
        "predictions/after-task-00.parquet",
        "probe/after-task-01.safetensors",
    ],
)
def test_what_was_edited_or_is_missing_is_refused_in_one_line(
    name: str, damage: Callable[[Path], object], stopped: Path, places: Places
) -> None:
    damage(stopped / name)
    before = {path: path.read_bytes() for path in stopped.rglob("*.*") if path.is_file()}
    with pytest.raises(UserError) as refusal:
        resume(stopped, places=places)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {path: path.read_bytes() for path in stopped.rglob("*.*") if path.is_file()} == before


def test_a_finished_tasks_predictions_are_missed_in_an_older_record_too(
    stopped: Path, places: Places
) -> None:
    (stopped / manifest.NAME).unlink()
    (stopped / "predictions" / "after-task-01.parquet").unlink()
    with pytest.raises(UserError, match=r"its predictions/after-task-01\.parquet is missing"):
        resume(stopped, places=places)


def test_a_run_goes_on_after_a_move_and_says_nothing_where_nothing_is_other(
    stopped: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    half = temporary_path(stopped / "predictions" / "after-task-02.parquet")
    half.write_bytes(b"half")
    (stopped / ".lock-holder").write_text("process 1")
    (stopped / "matrix.json").unlink()  # it is made anew, from the predictions
    record = resume(stopped, places=places)
    assert record.changes() == []
    assert not half.exists()
    assert not caplog.messages
    assert [path.name for path in record.path.glob(".*")] == []
    assert record.read_json("metrics.json")["accuracy"] is not None


def test_another_machine_and_other_threads_are_said(
    stopped: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record.open(stopped)
    found = record.read_json("environment.json")
    found["machine"] |= {"processor": "An older one", "torch_threads": torch.get_num_threads() + 1}
    found["packages"]["torch"] = "2.4.0"
    record.write_json("environment.json", found)
    resume(stopped, places=places)
    (told,) = caplog.messages
    threads = torch.get_num_threads()
    for part in ("not An older one", f"threads: {threads}, not {threads + 1}", "not 2.4.0"):
        assert part in told
    events = [json.loads(line) for line in (stopped / "events.jsonl").read_text().splitlines()]
    (resumed,) = [event for event in events if event["event"] == "resumed"]
    assert len(resumed["differs"]) == 3


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no text": lambda file: file.write_bytes(bytes(range(256))),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
    "list": lambda file: file.write_bytes(b"[1]"),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_whatever_a_file_holds_a_run_goes_on_or_is_refused_in_one_line(
    damage: Callable[[Path], object], stopped: Path, tmp_path: Path, places: Places
) -> None:
    names = [str(file.relative_to(stopped)) for file in stopped.rglob("*") if file.is_file()]
    for name in names:
        folder = Path(shutil.copytree(stopped, tmp_path / "damaged"))
        if name != manifest.NAME:  # which would tell of most damages before anything is read
            (folder / manifest.NAME).unlink()
        damage(folder / name)
        try:
            assert resume(folder, places=places).read_json("metrics.json")["accuracy"] is not None
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        shutil.rmtree(folder)


def test_a_second_resume_is_refused(stopped: Path, places: Places) -> None:
    with only_writer(stopped), pytest.raises(LockedError, match="is being written by process"):
        resume(stopped, places=places)


def test_a_device_that_is_not_there_is_told_in_one_line(
    stopped: Path, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record.open(stopped)
    text = (stopped / "spec.toml").read_text().replace('device = "cpu"', 'device = "cuda:99"')
    record.write_text("spec.toml", text)
    with pytest.raises(DeviceError, match="device 'cuda:99' is not there"):
        resume(stopped, places=places)
    assert main(["resume", str(stopped)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: device 'cuda:99' is not there")


@pytest.mark.parametrize("command", [None, b"", b"\xff\xfe", b"clbench run --set 'odd", b"clbench run --set"])
def test_an_odd_command_does_not_matter_when_all_is_done(
    command: bytes | None, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from clbench.cli.outcome import another_run

    file = stopped / "command.txt"
    file.unlink()
    if command is not None:
        file.write_bytes(command)
    assert another_run(Record.open(stopped)).endswith("--strategy lae-adapter")


KILLED_AT_THE_START = """
import os, signal, sys
from clbench.records.resolving import resolve
from clbench.runs import line
from clbench.streams import Places
from pathlib import Path

rename = os.rename
def die(source, target):
    if sys.argv[3] == "after":
        rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = die
line.execute(resolve(eval(sys.argv[4])), out=sys.argv[1], places=Places(None, Path(sys.argv[2])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_whenever_a_run_is_killed_there_is_none_or_one_to_go_on_with(
    moment: str, tmp_path: Path, places: Places
) -> None:
    out = tmp_path / "runs"
    words = [str(out), str(places.cache_dir), moment, repr(SPEC)]
    subprocess.run([sys.executable, "-c", KILLED_AT_THE_START, *words], check=False)
    (folder,) = out.iterdir()
    if moment == "before":
        assert folder.name.endswith(".tmp")
        return
    assert resume(folder, places=places).is_finished
