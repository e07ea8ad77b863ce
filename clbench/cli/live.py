"""Show a run while it goes on: bars on a terminal, one plain line a task anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from clbench.backbones.ranks import LostRankError
from clbench.cli.ranks import launcher
from clbench.cli.stopping import end_at_once_next_time
from clbench.cli.terminal import console, say
from clbench.outside.visible import shell_word, visible
from clbench.records.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from clbench.records.spec import RunSpec

MOST_SHOWN = 20  # accuracies in a line
SECONDS_BETWEEN_UPDATES = 0.2  # of the bars; each reads the loss, which waits for the device


@contextmanager
def watched(
    data_dir: Path | None, *, begun: Path | None = None, is_one_of_many: bool = False
) -> Iterator[Live]:
    """Show the run in the block on stderr; if it is stopped, say how to go on with it.

    ``begun`` is the record of a run that goes on; another is known once it has begun.
    """
    live = Live(console(stderr=True))
    live.folder = begun

    def told() -> str:
        if is_one_of_many:
            return "the same command goes on with what is left"
        return f"go on with: {_resumption(live.folder, data_dir)}" if live.folder else "no run had begun"

    try:
        with live:
            yield live
    except KeyboardInterrupt:
        end_at_once_next_time()
        say(f"stopped; {told()}")
        raise
    except OSError:
        if live.folder:
            say(f"then {told()}")
        raise
    except LostRankError as error:
        raise LostRankError(f"{error}; {told()}") from error


def _resumption(folder: Path, data_dir: Path | None) -> str:
    words = [*launcher(), "resume", str(folder), *(["--data-dir", str(data_dir)] if data_dir else [])]
    return " ".join(map(shell_word, words))


class Live(Progress):
    """Draws on a console (stderr) what it hears, as far as the console can show it."""

    def __init__(self, console: Console) -> None:
        """Draw nothing yet; use it as a context manager, so that the bars are gone when an error is told."""
        self.console = console
        self.folder: Path | None = None  # where the record lies, once the run has begun
        self.bars = bars_on(console)
        self.bar: TaskID | None = None
        self.num_done = 0  # steps or images of the bar being drawn
        self.num_images = 0  # since the bar was begun
        self.begun = self.drawn = 0.0  # when the bar was begun and last drawn, in seconds

    def __enter__(self) -> Live:
        """Begin to draw."""
        self.bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Take the bars away."""
        self.bars.stop()

    def run_started(self, spec: RunSpec, folder: Path, num_tasks: int) -> None:
        """Say where it runs, and where its record lies; what is run stands above."""
        self.folder, self.num_tasks = folder, num_tasks
        self._say(f"on {spec.run.device} -> {visible(str(folder))}")

    def noted(self, line: str) -> None:
        """Put it down, below the header."""
        self._say(f"  {line}")

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        """Remember the task; its bars come with its epochs."""
        self.task = task
        self.steps_before = 0  # steps of the task's epochs done while this ran
        self.task_begun = time.monotonic()

    def epoch_started(self, epoch: int, num_epochs: int, first_step: int, num_steps: int) -> None:
        """Begin a bar of the epoch's steps."""
        self.steps_left = (num_epochs - epoch) * num_steps  # of the task, when the epoch began
        self.steps_of_task = num_epochs * num_steps
        self.first_step = first_step
        title = f"task {self.task + 1}/{self.num_tasks} epoch {epoch + 1}/{num_epochs}"
        self._begin_bar(title, num_steps, first_step)

    def step_done(self, num_images: int, loss: Tensor) -> None:
        """Move the bar on, and a few times a second draw it."""
        self.num_done += 1
        self.num_images += num_images
        self.steps_before += 1
        if not self.bars.disable and self._is_time():
            self._draw(f"loss {float(loss):.3f} · {self._speed()} · {self._time_left()} left")

    def evaluation_started(self, num_images: int) -> None:
        """Begin a bar of the images to predict."""
        self._begin_bar(f"task {self.task + 1}/{self.num_tasks} evaluation", num_images, 0)

    def batch_predicted(self, num_images: int) -> None:
        """Move the bar on, and a few times a second draw it."""
        self.num_done += num_images
        self.num_images += num_images
        if not self.bars.disable and self._is_time():
            self._draw(self._speed())

    def variant_predicted(self, variant: str, accuracies: list[float]) -> None:
        """Put down what a variant predicted, below the task."""
        self._drop_bar()
        self._say(f"       as {variant}: {accuracy_row(accuracies)}")

    def task_finished(self, task: int, accuracies: list[float]) -> None:
        """Put the task's accuracies down, to stay."""
        self._drop_bar()
        self._say(f"task {task + 1:>2}/{self.num_tasks}  {accuracy_row(accuracies)}")

    def _begin_bar(self, title: str, total: int, done: int) -> None:
        self._drop_bar()
        self.bar = self.bars.add_task(title, total=total, completed=done, told="")
        self.num_done, self.num_images = done, 0
        self.begun = self.drawn = time.monotonic()

    def _drop_bar(self) -> None:
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None

    def _is_time(self) -> bool:
        return time.monotonic() - self.drawn >= SECONDS_BETWEEN_UPDATES

    def _draw(self, told: str) -> None:
        assert self.bar is not None
        self.bars.update(self.bar, completed=self.num_done, told=told)
        self.bars.refresh()
        self.drawn = time.monotonic()

    def _speed(self) -> str:
        return f"{self.num_images / (time.monotonic() - self.begun):,.0f} images/s"

    def _time_left(self) -> str:
        """Extrapolate to the end of the run, as if the tasks to come had as many steps as this one."""
        steps_here = self.num_done  # of this epoch, also those before the run was resumed
        steps_left = self.steps_left - steps_here + (self.num_tasks - self.task - 1) * self.steps_of_task
        return duration(steps_left * (time.monotonic() - self.task_begun) / self.steps_before)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def bars_on(console: Console) -> Bars:
    """Return what draws bars on a terminal, and nothing anywhere else."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )


def duration(seconds: float) -> str:
    """Return ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def accuracy_row(accuracies: list[float]) -> str:
    """Return the mean of the known accuracies and each in percent; of many, the first and the last."""
    known = [value for value in accuracies if not math.isnan(value)]
    if not known:
        return "not evaluated: nothing learnt yet"
    cells = ["   -" if math.isnan(value) else f"{100 * value:4.0f}" for value in accuracies]
    if len(cells) > MOST_SHOWN:
        cells = [*cells[: MOST_SHOWN // 2], " ...", *cells[-MOST_SHOWN // 2 :]]
    return f"average {100 * sum(known) / len(known):5.1f} %  {' '.join(cells)}"
