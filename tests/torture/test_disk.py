"""A disk that is full at any write ends a run with one line, and what it has written goes on."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clbench.cli import main
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.line import execute, resume

TIMES = 6 * int(os.environ.get("CLBENCH_TORTURE", "1"))  # writes at which the disk is full
KILOBYTES = (1, 64)  # that a file may take


def spec_of() -> RunSpec:
    return resolve(
        {
            "stream": {"name": "split-digits", "tasks": 2, "train_per_class": 6, "test_per_class": 3},
            "strategy": {"name": "er", "epochs": 1, "batch_size": 8},
            "run": {"device": "cpu", "checkpoint_every": 2},
        }
    )


def check_line(told: str, number: int) -> None:
    assert "\n" not in told, number
    assert "no space left on device" in told, number


class Disk:
    """Counts what is flushed to it, and is full at one of these times."""

    def __init__(self) -> None:
        self.number, self.full_at = 0, -1
        self.fsync = os.fsync

    def flush(self, descriptor: int) -> None:
        self.number += 1
        if self.number == self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(descriptor)


@pytest.mark.slow  # a run for every write
@pytest.mark.timeout(1800)
def test_a_disk_full_at_any_write_costs_a_line_and_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.flush)
    places = Places(cache_dir=tmp_path / "cache")
    execute(spec_of(), out=tmp_path / "first", places=places)  # the caches are written
    disk.number = 0
    whole = execute(spec_of(), out=tmp_path / "whole", places=places)
    num_writes = disk.number
    numbers = random.Random("disk").sample(range(1, num_writes + 1), min(TIMES, num_writes))
    begun = 0
    for number in sorted(numbers):
        out = tmp_path / f"full-at-{number}"
        disk.number, disk.full_at = 0, number
        try:
            record = execute(spec_of(), out=out, places=places)
        except UserError as error:
            check_line(str(error), number)
            disk.full_at = -1
            folders = (
                [path for path in out.iterdir() if not path.name.endswith(".tmp")] if out.is_dir() else []
            )
            begun += len(folders)
            record = (
                resume(folders[0], places=places) if folders else execute(spec_of(), out=out, places=places)
            )
        assert record.read_json("metrics.json") == whole.read_json("metrics.json"), number
        pairs = zip(record.predictions().values(), whole.predictions().values(), strict=True)
        assert all(np.array_equal(*pair, equal_nan=True) for pair in pairs), number
        assert record.changes() == []
    told = f"a full disk at {len(numbers)} of {num_writes} writes of a run: one line, and the same end"
    record_property("torture", f"{told} ({begun} went on, the others began anew)")


@pytest.mark.slow  # processes that import torch
@pytest.mark.parametrize("kilobytes", KILOBYTES)
def test_a_disk_that_takes_no_large_file_is_told_in_one_line(kilobytes: int, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(spec_of().to_toml())

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, 1024 * kilobytes))

    done = subprocess.run(
        [sys.executable, "-m", "clbench", "run", "--config", "spec.toml"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "file too large" in line


@pytest.mark.parametrize("out", ["/proc/clbench", "/dev/null/runs"])
def test_a_folder_that_nobody_can_write_to_is_told_in_one_line(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.toml").write_text(spec_of().to_toml())
    assert main(["run", "--config", str(tmp_path / "spec.toml"), "--out", out]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert out in line


def test_a_read_only_folder_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))  # what a file system says that is mounted so

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(UserError, match="read-only file system; choose a folder that you may write to"):
        execute(spec_of(), out=tmp_path / "runs", places=Places(cache_dir=tmp_path / "cache"))
    assert [Record.open(path) for path in tmp_path.glob("runs/*")] == []
