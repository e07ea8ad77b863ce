"""Drive a sweep: ask for trials, let their runs begin, hear of them, stop the poor ones, and note it all.

It knows nothing of what does the runs: processes of this machine, or a cluster.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.evaluate.former_names import current_name
from clbench.files import make_folder, write_text
from clbench.outside.reading import read_text
from clbench.records.record import Record
from clbench.scale.crew import Crew
from clbench.scale.plan import planned
from clbench.scale.sweep import Sweep
from clbench.scale.trials import Trial, Trials, ranked
from clbench.scale.worker import Job

RUNS, BEST, IDENTITY = "runs", "best.toml", "sweep.toml"  # in a sweep's folder
MOST_LIVES = 3  # processes that may die at one run
SECONDS_OF_PATIENCE = 60.0  # with a process that was killed and still holds a record

Hear = Callable[..., object]  # takes a trial, a seed, the name of a message and its values


class SweepError(UserError, ValueError):
    """A folder that holds something else than the sweep that was asked for."""


@dataclass
class Driver:
    """One sweep in one folder, and what does its runs; ``drive`` does the work."""

    sweep: Sweep
    folder: Path  # absolute
    places: Places
    crew: Crew
    hear: Hear = lambda *_: None
    tick: Callable[[], object] = lambda: None  # called a few times a second
    command: str = ""  # what was typed
    running: dict[int, str] = field(default_factory=dict, init=False)  # id of each run's spec by its number
    waiting: set[int] = field(default_factory=set, init=False)  # runs that are the same as one of those
    deaths: Counter[int] = field(default_factory=Counter, init=False)  # of processes, by the run's number

    def __post_init__(self) -> None:
        """Read what the folder holds."""
        self.trials = Trials(self.folder)

    def drive(self) -> None:
        """Do what is left of the sweep; whatever ends it, the same goes on with the rest."""
        for trial in self.trials.trials:
            if trial.state == "failed":
                self.trials.reopen(trial)
        with self.crew:
            while self._fill() or self.crew.is_busy:
                for number, what, *told in self.crew.heard() if self.crew.is_busy else ():
                    trial, seed = self._of(number)
                    getattr(self, f"_{what}", lambda *_: None)(number, trial, seed, *told)
                    self.hear(trial, seed, what, *told)
                self.tick()
        self._write_best()  # a kill may have come between the end of the best trial and this

    def _fill(self) -> bool:
        """Let as many runs begin as there is room for; return whether any did, or a trial ended."""
        has_changed = False
        while self.crew.has_room:
            number = next(self._ready(), None)
            if number is not None:
                self._begin(number)
            elif not self._ask():
                break
            has_changed = True
        return has_changed

    def _ask(self) -> bool:
        """Add the next trial; return whether there is one."""
        trials = self.trials.trials
        if len(trials) >= self.sweep.num_trials:
            return False
        options = self.sweep.search.next(trials)
        if options is None:
            return False
        self.trials.ask(options)
        return True

    def _ready(self) -> Iterator[int]:
        """Yield the numbers of runs that may begin; with early stopping the first seed goes before others."""
        for trial in self.trials.trials:
            if trial.state != "open":
                continue
            left = [seed for seed in self.sweep.seeds if seed not in trial.scores]
            is_first_alone = self.sweep.stopping is not None and self.sweep.seeds[0] in left
            for seed in left[:1] if is_first_alone else left:
                number = self._number(trial, seed)
                if number not in self.running and number not in self.waiting:
                    yield number

    def _begin(self, number: int) -> None:
        """Begin a run, or go on with its record; one that is finished is not run again."""
        trial, seed = self._of(number)
        if False in trial.decided.values():
            self.trials.end(trial, "stopped")
            return
        try:
            spec = self.sweep.spec(trial.options, seed)
        except UserError as error:
            self._refused(number, trial, seed, str(error))
            self.hear(trial, seed, "refused", str(error))
            return
        (found,) = planned([spec], self.folder / RUNS)
        if found.record and found.is_finished:
            self._finished(number, trial, seed, found.record.path)
            self.hear(trial, seed, "finished", found.record.path)
            return
        if spec.id in self.running.values():  # options that differ in words: it is found when that has ended
            self.waiting.add(number)
            return
        self.running[number] = spec.id
        stopping = self.sweep.stopping
        asks = stopping.rungs if stopping and seed == self.sweep.seeds[0] else frozenset[int]()
        folder = found.record.path if found.record else None
        job = Job(
            spec,
            self.folder / RUNS,
            self.places,
            folder,
            self.command,
            asks_after=asks,
            patience=SECONDS_OF_PATIENCE,
        )
        self.hear(trial, seed, "starting")
        self.crew.give(number, job)

    def _started(self, number: int, trial: Trial, seed: int, folder: Path, num_tasks: int) -> None:
        self.trials.begun(trial, seed, folder.name)

    def _learnt(self, number: int, trial: Trial, seed: int, task: int, accuracies: list[float]) -> None:
        self.trials.learnt(trial, seed, task + 1, _mean(accuracies))

    def _asked(self, number: int, trial: Trial, seed: int, num_tasks: int, accuracies: list[float]) -> None:
        """Answer whether a trial goes on; what was decided before a kill is decided."""
        self.trials.learnt(trial, seed, num_tasks, _mean(accuracies))
        if num_tasks not in trial.decided:
            assert self.sweep.stopping is not None
            before = self.trials.before(trial, seed, num_tasks)
            goes_on = self.sweep.stopping.goes_on(_mean(accuracies), before)
            self.trials.decide(trial, num_tasks, goes_on=goes_on)
        self.crew.answer(number, is_to_go_on=trial.decided[num_tasks])

    def _stopped(self, number: int, trial: Trial, seed: int) -> None:
        self._let_go(number)
        self._end(trial, "stopped")

    def _refused(self, number: int, trial: Trial, seed: int, reason: str) -> None:
        self._let_go(number)
        self._end(trial, "refused", reason)

    def _failed(self, number: int, trial: Trial, seed: int, reason: str, details: str) -> None:
        self._let_go(number)
        self._end(trial, "failed", reason)

    def _lost(self, number: int, trial: Trial, seed: int, how: str, last_words: str) -> None:
        """Let the run go on in another process, unless that died too often."""
        self._let_go(number)
        self.deaths[number] += 1
        if self.deaths[number] >= MOST_LIVES:
            self._end(trial, "failed", f"{how}, {MOST_LIVES} times; {' '.join(last_words.split())[-200:]}")

    def _finished(self, number: int, trial: Trial, seed: int, folder: Path) -> None:
        self._let_go(number)
        self.trials.begun(trial, seed, folder.name)
        score = self._score(Record.open(folder))
        if math.isnan(score):
            self._end(trial, "failed", f"{self.sweep.settings.metric} of {folder.name} is not known")
            return
        self.trials.scored(trial, seed, score)
        if all(each in trial.scores for each in self.sweep.seeds):
            self._end(trial, "finished")
            self._write_best()

    def _let_go(self, number: int) -> None:
        self.running.pop(number, None)
        self.waiting.clear()

    def _end(self, trial: Trial, state: Any, reason: str = "") -> None:
        if trial.state == "open":  # else another seed of it has ended it
            self.trials.end(trial, state, reason)

    def _score(self, record: Record) -> float:
        named = self.sweep.settings.metric
        for name, value in record.read_json("metrics.json").items():
            if current_name(name) == named and value is not None:
                return float(value)
        return math.nan

    def _write_best(self) -> None:
        trial = best_of(self.sweep, self.trials.trials)
        if trial is not None:
            write_text(self.folder / BEST, self.sweep.best(trial.options).to_toml())

    def _number(self, trial: Trial, seed: int) -> int:
        return trial.number * len(self.sweep.seeds) + self.sweep.seeds.index(seed)

    def _of(self, number: int) -> tuple[Trial, int]:
        trial, place = divmod(number, len(self.sweep.seeds))
        return self.trials.trials[trial], self.sweep.seeds[place]


def claim(sweep: Sweep, folder: Path) -> None:
    """Make a folder the one of this sweep; SweepError in one line where it is that of another."""
    file = folder / IDENTITY
    make_folder(folder)
    if not file.exists():
        if any(folder.glob("*.toml")) or (folder / RUNS).exists():
            raise SweepError(f"{folder} holds something else than a sweep; choose another with --out")
        write_text(file, sweep.identity)
    elif read_text(file) != sweep.identity:
        raise SweepError(
            f"{folder} holds another sweep than this file describes (see {file}); choose another with --out"
        )


def best_of(sweep: Sweep, trials: list[Trial]) -> Trial | None:
    """Return the finished trial with the best score; None as long as none is finished."""
    order = ranked(trials, higher_is_better=sweep.higher_is_better)
    return order[0] if order and order[0].state == "finished" else None


def _mean(accuracies: list[float]) -> float:
    known = [value for value in accuracies if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
