"""Only one process at a time writes into a record, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clbench.records.lock import LockedError, only_writer, remove_lock

HOLDER = """
import sys, time
from pathlib import Path
from clbench.records.lock import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_in_one_line_until_the_first_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        told = f"is being written by process {process.pid} on "
        with pytest.raises(LockedError, match=told) as refusal, only_writer(tmp_path):
            pass
        assert "\n" not in str(refusal.value)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with only_writer(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock-holder").read_text()
    remove_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_process_does_not_write_twice_either(tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(LockedError), only_writer(tmp_path):
        pass


def test_where_nothing_can_be_locked_it_is_said_and_gone_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with only_writer(tmp_path):
        pass
    assert "cannot be locked" in caplog.text
