"""Show a sweep while it goes on and when it has ended: a row a trial, the best first."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clbench.evaluate import find
from clbench.options import Value
from clbench.outside.visible import visible
from clbench.report.columns import quality_columns
from clbench.report.units import percent
from clbench.scale.course import Course
from clbench.scale.sweep import Sweep
from clbench.scale.trials import Trial, ranked

LINES_AROUND = 7  # of the table's own: its heading, its rules, the sum below
STYLES = {"finished": "green", "stopped": "dim", "refused": "yellow", "failed": "bold red", "open": "bold"}


class SweepTable:
    """Draws the trials of a sweep on a console; a context manager."""

    def __init__(self, sweep: Sweep, console: Console) -> None:
        """Draw nothing yet; ``trials`` are what is drawn."""
        self.sweep, self.console = sweep, console
        self.trials: Sequence[Trial] = ()
        self.courses: dict[tuple[int, int], Course] = {}  # of the runs that go on, by trial and seed
        self.live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> SweepTable:
        """Begin to draw, where it is a terminal."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Take the table away."""
        self.live.stop()

    def hear(self, trial: Trial, seed: int, what: str, *told: Any) -> None:
        """Take in what is said of a run; on no terminal write a line of what matters."""
        place = (trial.number, seed)
        if what in ("starting", "started", "at", "learnt"):
            self.courses.setdefault(place, Course(str(trial.number + 1))).hear(what, *told)
        else:
            course = self.courses.get(place)
            if what != "asked":
                self.courses.pop(place, None)
            self._say(trial, seed, what, course, told)

    def draw(self) -> None:
        """Draw the table as it is now."""
        if self.console.is_terminal:
            most = max(1, self.console.height - LINES_AROUND)
            going = [trial for trial in self.trials if trial.state == "open"]
            others = [trial for trial in self._ranked() if trial.state != "open"]
            shown = [*going, *others][:most]
            self.live.update(Group(_table(shown, self.sweep, self.courses), Text(self._sum())), refresh=True)

    def _ranked(self) -> list[Trial]:
        return ranked(self.trials, higher_is_better=self.sweep.higher_is_better)

    def _say(self, trial: Trial, seed: int, what: str, course: Course | None, told: Sequence[Any]) -> None:
        if self.console.is_terminal:
            return
        line = {
            "finished": lambda: f"{_score(trial, self.sweep)} ({self._sum()})",
            "stopped": lambda: f"stopped after {trial.num_tasks} tasks ({self._sum()})",
            "refused": lambda: f"refused: {told[0]}",
            "failed": lambda: f"failed: {told[0]}",
            "lost": lambda: f"{told[0]}; it goes on in another",
        }.get(what)
        if line:
            text = f"trial {trial.number + 1} seed {seed}: {_in_words(trial.options)}: {line()}"
            self.console.print(visible(" ".join(text.split())), markup=False, highlight=False, soft_wrap=True)

    def _sum(self) -> str:
        counts = Counter(trial.state for trial in self.trials)
        done = sum(counts[state] for state in ("finished", "stopped", "refused", "failed"))
        told = [f"{counts[state]} {state}" for state in ("stopped", "refused", "failed") if counts[state]]
        return ", ".join([f"{done} of {self.sweep.num_trials} trials done", *told])


def trial_table(trials: Sequence[Trial], sweep: Sweep) -> RenderableType:
    """Return all trials, the best first."""
    reasons = [
        Text(f"trial {trial.number + 1} {trial.state}: {visible(trial.reason)}")
        for trial in trials
        if trial.reason
    ]
    order = ranked(trials, higher_is_better=sweep.higher_is_better)
    return Group(_table(order, sweep, {}), *reasons)


def _table(trials: Sequence[Trial], sweep: Sweep, courses: dict[tuple[int, int], Course]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="scored on validation images")
    table.add_column("trial", justify="right", no_wrap=True)
    for axis in sweep.space.axes:
        table.add_column(axis.name.partition(".")[2] or axis.name, justify="right")
    (column,) = quality_columns([find(sweep.settings.metric)])
    for heading in ("seeds", "tasks", column.heading):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for trial in trials:
        going = [course for (number, _), course in courses.items() if number == trial.number]
        state = "running" if going else "waiting" if trial.state == "open" else trial.state
        options = [_value(trial.options.get(axis.name, "")) for axis in sweep.space.axes]
        told = [f"{len(trial.scores)}/{sweep.settings.seeds}", str(trial.num_tasks), _score(trial, sweep)]
        table.add_row(
            str(trial.number + 1), *map(Text, [*options, *told]), Text(state, style=STYLES[trial.state])
        )
    return table


def _score(trial: Trial, sweep: Sweep) -> str:
    """Write mean and standard deviation of the finished seeds; else the accuracy so far, in brackets."""
    scores = list(trial.scores.values())
    if scores:
        (column,) = quality_columns([find(sweep.settings.metric)])
        return column.show(
            statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else math.nan
        )
    return "" if math.isnan(trial.accuracy) else f"({percent(trial.accuracy)})"


def _in_words(options: dict[str, Value]) -> str:
    return " ".join(f"{name.partition('.')[2]}={_value(value)}" for name, value in options.items())


def _value(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
