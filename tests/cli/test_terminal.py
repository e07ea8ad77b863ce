"""Whatever stands at the other end, nothing that is printed ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO

import pytest
from rich.text import Text

from clbench.cli import terminal

CLBENCH = f"{sys.executable} -m clbench"


def sh(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", command.replace("clbench", CLBENCH)],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("clbench --version >&-", 0, b"standard output is closed: nothing is printed\n"),
        ("clbench --version 2>&-", 0, b""),
        ("clbench rum 2>&-", 2, b""),
        ("clbench --version >&- 2>&- <&-", 0, b""),
        ("clbench --version > /dev/full", 2, b"error: while writing: No space left on device\n"),
        ("clbench run --help | head -n 1", 0, b""),
    ],
)
def test_a_stream_that_takes_nothing_costs_one_line(command: str, status: int, told: bytes) -> None:
    if "/dev/full" in command and not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is full: there is no /dev/full on this system")
    done = sh(command)
    assert (done.returncode, done.stderr) == (status, told)


def test_a_terminal_with_few_letters_gets_others() -> None:
    done = sh("clbench list metrics", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0
    assert not done.stderr
    assert b"calibration" in done.stdout.lower()
    done.stdout.decode("ascii")


@pytest.mark.parametrize("columns", ["0", "1", "-3", "many", "9" * 30, "²"])
def test_an_impossible_width_is_none(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "0")
    console = terminal.console()
    assert 20 <= console.width <= 10_000
    monkeypatch.setenv("COLUMNS", "44")
    assert terminal.console().width == 44


def test_what_is_printed_shows_its_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()
    console = terminal.console()
    console.file = file
    console.print(Text("a\x1b[2Jb\u202ec\nd", style="bold"))
    assert file.getvalue() == "a\\x1b[2Jb\\u202ec\nd\n"


def test_letters_that_a_terminal_lacks_are_replaced() -> None:
    terminal.prepare()
    assert "a · 1 ± 2 → é".encode("ascii", "clbench") == b"a - 1 +- 2 -> \\xe9"
