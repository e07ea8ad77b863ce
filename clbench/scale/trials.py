"""Keep what a sweep has asked, heard and decided: a file of one line each, which is only ever added to.

What stands there is so, whatever is killed: a driver that begins anew reads it and goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clbench.files import append_line
from clbench.options import Value
from clbench.outside.reading import RecordError, read_text

FILE = "trials.jsonl"
State = Literal["open", "finished", "stopped", "refused", "failed"]


@dataclass
class Trial:
    """One choice of options, and what is known of its runs."""

    number: int
    options: dict[str, Value]
    state: State = "open"
    reason: str = ""  # why it was refused or failed
    folders: dict[int, str] = field(default_factory=dict)  # records by seed, in the folder of runs
    scores: dict[int, float] = field(default_factory=dict)  # of the finished runs, by seed
    by_task: dict[int, dict[int, float]] = field(default_factory=dict)  # accuracy, by seed and tasks learnt
    decided: dict[int, bool] = field(default_factory=dict)  # by tasks learnt: whether it went on

    @property
    def score(self) -> float:
        """The mean over the seeds that are finished; NaN as long as none is."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else math.nan

    @property
    def num_tasks(self) -> int:
        """How many tasks a run of it has learnt."""
        return max((task for tasks in self.by_task.values() for task in tasks), default=0)

    @property
    def accuracy(self) -> float:
        """The mean over the seeds that came as far as any, of the accuracy on the tasks learnt; NaN: none."""
        last = [tasks[self.num_tasks] for tasks in self.by_task.values() if self.num_tasks in tasks]
        return sum(last) / len(last) if last else math.nan


class Trials:
    """The trials of a folder; what is put in is on the disk before it returns."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; RecordError for lines that no sweep writes, but for a last one that is torn."""
        self.file = folder / FILE
        self.trials: list[Trial] = []
        for line in _lines(self.file):
            try:
                self._take(line)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise RecordError(
                    f"{self.file} holds a line that no sweep writes: {str(line)[:80]}"
                ) from error

    def ask(self, options: Mapping[str, Value]) -> Trial:
        """Add a trial."""
        self._put({"event": "asked", "trial": len(self.trials), "options": dict(options)})
        return self.trials[-1]

    def begun(self, trial: Trial, seed: int, folder: str) -> None:
        """Note where the record of a run lies."""
        if trial.folders.get(seed) != folder:
            self._put({"event": "begun", "trial": trial.number, "seed": seed, "folder": folder})

    def learnt(self, trial: Trial, seed: int, num_tasks: int, accuracy: float) -> None:
        """Note the accuracy of a run after so many tasks."""
        if trial.by_task.get(seed, {}).get(num_tasks) is None:
            told = {"tasks": num_tasks, "accuracy": _number(accuracy)}
            self._put({"event": "learnt", "trial": trial.number, "seed": seed, **told})

    def decide(self, trial: Trial, num_tasks: int, *, goes_on: bool) -> None:
        """Note whether a trial goes on behind so many tasks."""
        self._put({"event": "decided", "trial": trial.number, "tasks": num_tasks, "goes_on": goes_on})

    def scored(self, trial: Trial, seed: int, score: float) -> None:
        """Note the score of a finished run."""
        self._put({"event": "scored", "trial": trial.number, "seed": seed, "score": _number(score)})

    def end(self, trial: Trial, state: State, reason: str = "") -> None:
        """Note how a trial ended."""
        self._put({"event": "ended", "trial": trial.number, "state": state, "reason": reason})

    def reopen(self, trial: Trial) -> None:
        """Let a trial that failed be tried again."""
        self._put({"event": "ended", "trial": trial.number, "state": "open", "reason": ""})

    def before(self, trial: Trial, seed: int, num_tasks: int) -> list[float]:
        """Return the accuracies on which the other trials were judged after so many tasks."""
        return [
            _nan(other.by_task.get(seed, {}).get(num_tasks))
            for other in self.trials
            if num_tasks in other.decided and other is not trial
        ]

    def _put(self, line: dict[str, Any]) -> None:
        append_line(self.file, json.dumps(line, allow_nan=False))
        self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        kind, number = line["event"], int(line["trial"])
        if kind == "asked":
            if number != len(self.trials):
                raise ValueError("trials come one after another")
            self.trials.append(Trial(number, dict(line["options"])))
            return
        trial = self.trials[number]
        if kind == "begun":
            trial.folders[int(line["seed"])] = str(line["folder"])
        elif kind == "learnt":
            by_task = trial.by_task.setdefault(int(line["seed"]), {})
            by_task[int(line["tasks"])] = _nan(line["accuracy"])
        elif kind == "decided":
            trial.decided[int(line["tasks"])] = bool(line["goes_on"])
        elif kind == "scored":
            trial.scores[int(line["seed"])] = _nan(line["score"])
        elif kind == "ended":
            trial.state, trial.reason = line["state"], str(line["reason"])
        else:
            raise ValueError(f"unknown event {kind!r}")


def ranked(trials: Iterable[Trial], *, higher_is_better: bool = True) -> list[Trial]:
    """Return the trials, the best first: finished ones by score, then stopped ones by how far they came."""

    def key(trial: Trial) -> tuple[float, ...]:
        if trial.state == "finished":
            return (0, -trial.score if higher_is_better else trial.score, trial.number)
        if trial.state in ("stopped", "open"):
            accuracy = trial.accuracy if trial.accuracy == trial.accuracy else -1.0
            return (1, -trial.num_tasks, -accuracy, trial.number)
        return (2, trial.number)

    return sorted(trials, key=key)


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, without those that a kill has torn."""
    if not file.exists():
        return []
    found = []
    for text in read_text(file).splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:  # torn; the line after it was begun anew
            continue
    return found


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
