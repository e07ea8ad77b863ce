"""Whatever is changed in a record after it was written is told; what a run does, and a move, is not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import clbench
from clbench.cli.app import main
from clbench.files import sweep, temporary_path
from clbench.outside.reading import RecordError, read_columns
from clbench.records import manifest
from clbench.records.record import Record
from clbench.report.collect import NoRunError

WriteRun = Callable[..., Record]


@pytest.fixture
def finished(write_run: WriteRun) -> Record:
    """A finished record whose list is closed."""
    record = write_run("lae")
    metrics = record.read_json("metrics.json")
    (record.path / "metrics.json").unlink()
    (record.path / "figures").mkdir()
    (record.path / "figures" / "one.png").write_bytes(b"picture")
    record.finish(metrics)
    return record


def test_a_finished_record_lists_every_file_once_as_sha256sum_reads_it(finished: Record) -> None:
    lines = (finished.path / manifest.NAME).read_text().splitlines()
    listed = {line.partition("  ")[2]: line.partition("  ")[0] for line in lines}
    files = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    assert listed.keys() == files - {manifest.NAME}
    assert len(lines) == len(listed)
    for name, digest in listed.items():
        assert digest == hashlib.sha256((finished.path / name).read_bytes()).hexdigest()
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", manifest.NAME], cwd=finished.path, check=True)


def test_a_record_that_was_moved_and_one_without_figures_is_as_it_was(finished: Record) -> None:
    moved = finished.path.rename(finished.path.with_name("another name"))
    shutil.rmtree(moved / "figures")
    (moved / "notes.txt").write_text("mine")
    (moved / "tensorboard").mkdir()
    copied = shutil.copytree(moved, moved.parent / "copy")
    for folder in (moved, copied):
        assert Record.open(folder).changes() == []


@pytest.mark.parametrize(
    "name", ["spec.toml", "metrics.json", "costs.json", "predictions/after-task-01.parquet", "command.txt"]
)
def test_what_was_changed_is_told_by_frames_and_when_metrics_are_computed_anew(
    name: str, finished: Record
) -> None:
    file = finished.path / name
    told = f"{finished.path.name} has changed since it was written: {name}"
    assert not any("since it was written" in line for line in clbench.load_runs(finished.path).warnings)
    if file.suffix == ".parquet":
        parquet.write_table(parquet.read_table(file), file, compression="none")
    else:
        file.write_text(file.read_text().replace("0.5", "0.25") + "\n")
    for recompute in (False, True):
        assert told in clbench.load_runs(finished.path, recompute=recompute).warnings


@pytest.mark.slow
def test_what_was_changed_is_told_in_the_terminal_and_on_the_page(
    finished: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished.path / "costs.json").write_text((finished.path / "costs.json").read_text() + "\n")
    page = finished.path.parent / "page.html"
    assert main(["report", str(finished.path), "--html", str(page)]) == 0
    told = "has changed since it was written: costs.json"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in page.read_text()


def test_the_list_is_written_before_the_file_so_that_a_kill_in_between_is_no_change(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = write_run("lae")
    before = (record.path / "matrix.json").read_bytes()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        record.write_json("matrix.json", {})
    assert (record.path / "matrix.json").read_bytes() == before
    assert record.changes() == []


def test_a_torn_line_is_passed_over_and_a_list_of_nothing_is_told(write_run: WriteRun) -> None:
    record = write_run("lae")
    file = record.path / manifest.NAME
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:40])
    manifest.note(record.path, "more.txt", b"x")
    assert record.changes() == ["more.txt"]
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(RecordError, match="it lists no file"):
        record.changes()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_no_file_outside_the_record_is_looked_at(name: str, write_run: WriteRun) -> None:
    record = write_run("lae")
    with open(record.path / manifest.NAME, "a") as lines:
        lines.write(f"{'0' * 64}  {name}\n")
    assert record.changes() == []


def test_a_flipped_bit_in_a_page_is_noticed_without_a_list(finished: Record) -> None:
    file = finished.path / "predictions" / "after-task-01.parquet"
    place = file.read_bytes().index(b"\x28\xb5\x2f\xfd") + 8  # inside the first page, compressed by zstd
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(RecordError, match=r"cannot read .*after-task-01"):
        read_columns(file)
    without = {"n": np.arange(3)}  # what an earlier version wrote has no checksums
    parquet.write_table(pa.table(without), file)
    assert read_columns(file)["n"].tolist() == [0, 1, 2]


def test_a_record_has_its_name_when_everything_is_in_it(
    tmp_path: Path, finished: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = os.rename

    def look(source: Path, target: Path) -> None:
        seen.append({path.name for path in Path(source).iterdir()})
        rename(source, target)

    monkeypatch.setattr(os, "rename", look)
    out = tmp_path / "new"
    record = Record.create(out, finished.spec, {"hashes.json": "{}", "command.txt": "clbench run"})
    assert seen == [{"spec.toml", "hashes.json", "command.txt", manifest.NAME}]
    assert record.changes() == []
    assert [path.name for path in out.iterdir()] == [record.path.name]


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_a_record_is_made_leaves_none(
    moment: int, tmp_path: Path, finished: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(100))
    out = tmp_path / "new"

    def die(*arguments: object) -> None:
        if next(count) == moment:
            # a process that is killed does not tidy up
            monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
            raise KeyboardInterrupt
        replace(*arguments) if len(arguments) == 2 else None

    replace = os.replace
    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(os, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        Record.create(out, finished.spec, {"hashes.json": "{}", "command.txt": ""})
    monkeypatch.undo()
    (left,) = out.iterdir()
    with pytest.raises(NoRunError):
        clbench.load_runs(out)
    for path in (left, *left.iterdir()):
        os.utime(path, (1, 1))
    sweep(out)
    assert left.exists()  # its process, this one, is alive
    gone = left.rename(left.with_name(left.name.replace(f".{os.getpid()}.", ".999999999.")))
    assert Record.create(out, finished.spec).path.exists()
    assert not gone.exists()


def test_only_what_is_temporary_and_left_is_swept(tmp_path: Path) -> None:
    ours = temporary_path(tmp_path / "matrix.json")
    left = ours.with_name(ours.name.replace(f".{os.getpid()}.", ".999999999."))
    elsewhere = tmp_path / ".matrix.json.another-machine.1.tmp"
    kept = [tmp_path / name for name in ("matrix.json", ".hidden", "notes.tmp", ".notes.tmp")]
    for path in (ours, left, elsewhere, *kept):
        path.write_text("half")
    sweep(tmp_path)
    assert left.exists()  # touched a moment ago: a process of another container may have this number
    os.utime(left, (1, 1))
    sweep(tmp_path)
    assert not left.exists()
    assert elsewhere.exists()
    os.utime(elsewhere, (1, 1))
    sweep(tmp_path)
    assert not elsewhere.exists()
    sweep(tmp_path, is_ours=True)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
