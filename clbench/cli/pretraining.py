"""Pre-train, show how it goes, and say what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from clbench.cli.live import SECONDS_BETWEEN_UPDATES, bars_on, duration
from clbench.cli.pretrained import outcome
from clbench.cli.stopping import end_at_once_next_time
from clbench.cli.terminal import console, say, show
from clbench.data.tasks import Places
from clbench.outside.reading import read_json
from clbench.pretrain.asked import Asked
from clbench.pretrain.learning import pretrain
from clbench.pretrain.listener import Listener
from clbench.pretrain.partial import account_of

LINES = 10  # of a course, that stay on the terminal


def pretrain_and_print(asked: Asked, file: Path, places: Places, command: str) -> None:
    """Make the file, or go on with it, and print what it is worth."""
    with _watched() as live:
        live.say(f"on {asked.device} -> {file}")
        pretrain(asked, file, places=places, listener=live, command=command)
    show(outcome(file, read_json(account_of(file))))


@contextmanager
def _watched() -> Iterator[LiveCourse]:
    """Show the course in the block on stderr; if it is stopped, say how to go on with it."""
    live = LiveCourse(console(stderr=True))
    try:
        with live:
            yield live
    except KeyboardInterrupt:
        end_at_once_next_time()
        say("stopped; the same command goes on" if live.num_steps else "stopped; nothing had begun")
        raise


class LiveCourse(Listener):
    """Draws a bar on a console that can show it, and puts a line down now and then on any."""

    def __init__(self, console: Console) -> None:
        """Draw nothing yet; use it as a context manager, so that the bar is gone when an error is told."""
        self.console = console
        self.bars = bars_on(console)
        self.bar: TaskID | None = None
        self.num_steps = self.num_done = self.num_before = 0
        self.recent: list[float] = []  # losses since the last line
        self.started = self.drawn = 0.0  # seconds

    def __enter__(self) -> LiveCourse:
        """Begin to draw."""
        self.bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Take the bar away."""
        self.bars.stop()

    def begun(self, num_steps: int, num_done: int, notes: Sequence[str]) -> None:
        """Put the notes down, and begin the bar."""
        for note in notes:
            self.say(f"  {note}")
        if num_done:
            self.say(f"  goes on after step {num_done}")
        self.num_steps, self.num_done, self.num_before = num_steps, num_done, num_done
        self.bar = self.bars.add_task("step", total=num_steps, completed=num_done, told="")
        self.started = self.drawn = time.monotonic()

    def step_done(self, loss: float, where: str) -> None:
        """Move the bar on, and put a line down after each tenth of the steps."""
        self.num_done += 1
        self.recent.append(loss)
        is_tenth = self.num_done * LINES // self.num_steps > (self.num_done - 1) * LINES // self.num_steps
        if is_tenth:
            mean = sum(self.recent) / len(self.recent)
            at = f"{where}  " if where else ""
            self.say(
                f"step {self.num_done:>5}/{self.num_steps}  {at}loss {mean:.3g}  {self._time_left()} left"
            )
            self.recent = []
        now = time.monotonic()
        if self.bar is not None and (is_tenth or now - self.drawn >= SECONDS_BETWEEN_UPDATES):
            at = f"{where} · " if where else ""
            told = f"{at}loss {loss:.3g} · {self._time_left()} left"
            self.bars.update(self.bar, completed=self.num_done, told=told)
            self.bars.refresh()
            self.drawn = now

    def examining(self) -> None:
        """Say so."""
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None
        self.say("looking at test images")

    def say(self, line: str) -> None:
        """Put a line down."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self) -> str:
        seconds = time.monotonic() - self.started
        return duration(seconds * (self.num_steps - self.num_done) / (self.num_done - self.num_before))
