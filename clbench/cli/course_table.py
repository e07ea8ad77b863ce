"""Show several runs while they go on: a table with a row a run, or plain lines where there is no terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clbench.cli.live import duration
from clbench.outside.visible import visible
from clbench.report.units import percent
from clbench.scale.course import Course, State

WORDS: dict[State, tuple[str, str]] = {  # what is written of a state, and how it looks
    "running": ("running", "bold"),
    "starting": ("starting", ""),
    "failed": ("failed", "bold red"),
    "waiting": ("waiting", "dim"),
    "finished": ("finished", "green"),
    "there": ("finished before", "dim"),
}
LINES_AROUND = 7  # of the table's own: its heading, its rules, the sum below
REFRESHES = 4  # a second


class CourseTable:
    """Draws the courses of runs on a console; a context manager."""

    def __init__(self, courses: Sequence[Course], console: Console) -> None:
        """Draw nothing yet."""
        self.courses = courses
        self.console = console
        self.live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop", screen=False
        )

    def __enter__(self) -> CourseTable:
        """Begin to draw, where it is a terminal."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Take the table away."""
        self.live.stop()

    def hear(self, number: int, what: str, *told: Any) -> None:
        """Take in what is said of a run; on no terminal write a line of what matters."""
        course = self.courses[number]
        course.hear(what, *told)
        if self.console.is_terminal:
            return
        line = {
            "started": lambda: f"-> {course.folder}",
            "learnt": lambda: (
                f"task {course.task + 1}/{course.num_tasks} average {percent(course.accuracy)} %"
            ),
            "finished": lambda: f"finished ({self._sum()})",
            "failed": lambda: f"failed: {course.reason}",
        }.get(what)
        if line:
            text = visible(f"{course.label}: {' '.join(line().split())}")
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def draw(self) -> None:
        """Draw the table as it is now."""
        if self.console.is_terminal:
            self.live.update(self.table(), refresh=True)

    def table(self) -> RenderableType:
        """Return the rows that fit on the screen, those that change first, and a line of sums."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run", no_wrap=True, overflow="ellipsis")
        for heading in ("state", "task", "accuracy", "left"):
            table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
        order = list(WORDS)
        ranked = sorted(self.courses, key=lambda course: order.index(course.state))
        shown = ranked[: max(1, self.console.height - LINES_AROUND)]
        for course in self.courses:
            if course in shown:
                table.add_row(*_row(course))
        hidden = len(ranked) - len(shown)
        rest = f", {hidden} of them not shown" if hidden else ""
        return Group(table, Text(f"{self._sum()}{rest}"))

    def _sum(self) -> str:
        counts = Counter(course.state for course in self.courses)
        done = counts["finished"] + counts["there"]
        others = [f"{counts[state]} {state}" for state in ("running", "starting", "failed", "waiting")]
        told = [each for each in others if not each.startswith("0 ")]
        return ", ".join([f"{done} of {len(self.courses)} finished", *told])


def _row(course: Course) -> list[Text]:
    word, style = WORDS[course.state]
    task = f"{course.task + 1}/{course.num_tasks}" if course.num_tasks and course.state == "running" else ""
    left = "" if math.isnan(course.seconds_left) else duration(course.seconds_left)
    accuracy = "" if math.isnan(course.accuracy) else f"{percent(course.accuracy)} %"
    return [Text(course.label), Text(word, style=style), Text(task), Text(accuracy), Text(left)]
