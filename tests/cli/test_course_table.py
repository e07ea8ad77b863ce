"""Several runs are followed in one table on a terminal, and by plain lines anywhere else."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from clbench.cli.course_table import CourseTable
from clbench.scale.course import Course


def courses(monkeypatch: pytest.MonkeyPatch) -> list[Course]:
    """Return one run of each state; the running one is at the third of five tasks after ten seconds."""
    monkeypatch.setattr("clbench.scale.course.time.monotonic", lambda: 100.0)
    there, running, failed, waiting, fresh = (Course(f"{name} seed 0") for name in ("a", "b", "c", "d", "e"))
    there.state = "there"
    running.hear("started", Path("runs/b"), 5)
    running.hear("at", 0, 0.0)
    running.hear("learnt", 1, [0.5, 0.7])
    monkeypatch.setattr("clbench.scale.course.time.monotonic", lambda: 110.0)
    running.hear("at", 2, 0.5)
    failed.hear("failed", "the loss is no number any more", "")
    fresh.hear("starting")
    return [there, running, failed, waiting, fresh]


def shown(runs: list[Course], height: int = 40) -> str:
    console = Console(file=StringIO(), width=60, height=height)
    console.print(CourseTable(runs, console).table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_a_run_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.split() for line in shown(courses(monkeypatch)).splitlines()]
    assert ["b", "seed", "0", "running", "3/5", "60.0", "%", "0:10"] in lines
    assert ["a", "seed", "0", "finished", "before"] in lines
    assert ["c", "seed", "0", "failed"] in lines
    assert shown(courses(monkeypatch)).endswith(
        "1 of 5 finished, 1 running, 1 starting, 1 failed, 1 waiting\n"
    )


def test_a_low_screen_shows_what_goes_on_and_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(courses(monkeypatch), height=9)
    assert [name for name in "abcde" if f"{name} seed 0" in text] == ["b", "e"]
    assert "3 of them not shown" in text


def test_what_is_no_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Course("er\x1b[2J seed 0"), Course("lae seed 0")]
    console = Console(file=StringIO(), width=40)
    with CourseTable(runs, console) as table:
        table.hear(0, "starting")
        table.hear(0, "started", Path("runs/er"), 2)
        table.hear(0, "at", 0, 0.5)
        table.hear(0, "learnt", 0, [0.5])
        table.hear(0, "finished", Path("runs/er"))
        table.hear(1, "failed", "no space\nleft", "")
        table.draw()
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        r"er\x1b[2J seed 0: -> runs/er",
        r"er\x1b[2J seed 0: task 1/2 average 50.0 %",
        r"er\x1b[2J seed 0: finished (1 of 2 finished, 1 waiting)",
        "lae seed 0: failed: no space left",
    ]
