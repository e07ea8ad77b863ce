"""Watch a learner while it learns: hits on each batch before it is learnt, and on test images every n steps.

Each row of the log says: after how many steps and training images, in which task, how many of how many
test images of which task were predicted right. Images of task -1 are the training images since the last row,
each predicted before it was learnt (test-then-train), in a task's first epoch only. After a task all test
images are predicted: there are exact rows about all of them, and rows about the fixed subset as elsewhere,
because two samples of images cannot be compared to the last percent.

A stream without boundaries does not tell which classes are coming: of the classes met so far one is
predicted, and an image of a class that comes for the first time is a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clbench.data.inputs import Batch
from clbench.data.samples import Samples
from clbench.data.tasks import Task
from clbench.evaluate.looks import COLUMNS, PREQUENTIAL
from clbench.runs.evaluator import Columns, Evaluator
from clbench.runs.modes import evaluation_mode
from clbench.seeds import Seeds


class Watch:
    """The log of one run; ``every`` steps (0: only after tasks) on ``num_images`` test images a task."""

    def __init__(
        self, evaluator: Evaluator, seeds: Seeds, *, every: int, num_images: int, prequential: bool = True
    ) -> None:
        """Draw the subset of each task's test images, the same at every evaluation."""
        self.evaluator = evaluator
        self.every = every
        self.prequential = prequential  # whether training images are predicted, too
        self.behind: list[NDArray[np.int64]] = []  # rows of each task that has ended
        self.rows: list[list[int]] = []  # since then
        self.num_steps = 0
        self.num_trained = 0  # images
        self.hits = self.tried = 0  # of training images since the last row
        self.met: set[int] = set()  # classes that occurred in a batch
        self.predicted_at = [0, -1]  # steps so far and the task, when test or training images were predicted
        self.subsets = [task.test.draw(num_images, seeds.numpy("watch", task.index)) for task in self._tasks]

    @property
    def _tasks(self) -> Sequence[Task]:
        return self.evaluator.stream.tasks

    def before_step(self, batch: Batch) -> None:
        """Predict a batch before it is learnt, and note which classes it brings."""
        if not self.every:
            return
        if batch.is_first_pass and self.prequential:
            self.tried += len(batch)
            if self.met or self.evaluator.stream.has_boundaries:
                seen, is_changed = self._tasks[: batch.task + 1], self._is_changed_since(batch.task)
                self.hits += self.evaluator.hits(
                    batch.plain(), batch.labels, self._known(), seen, is_changed=is_changed
                )
        self.met.update(batch.labels.tolist())

    def after_step(self, batch: Batch) -> bool:
        """Count a step; return whether the learner is to be looked at now."""
        self.num_steps += 1
        self.num_trained += len(batch)
        return bool(self.every) and self.num_steps % self.every == 0

    def look(self, seen: Sequence[Task]) -> None:
        """Predict the subsets of the tasks seen."""
        shown = [self._shown(task) for task in seen]
        if not any(map(len, shown)):
            return
        evaluation_mode(self.evaluator.strategy)
        columns = self.evaluator.log(seen, shown, self._known(), phase="watch")
        self._is_changed_since(seen[-1].index)
        self._note(seen[-1].index, columns, exact=False)

    def look_again(self, seen: Sequence[Task]) -> None:
        """Let the learner of a resumed run work out what it had, if it stopped just after a look."""
        if self.predicted_at != [self.num_steps, seen[-1].index]:
            return
        shown = next(samples for task in reversed(seen) if len(samples := self._shown(task)))
        evaluation_mode(self.evaluator.strategy)
        with torch.inference_mode():
            self.evaluator.predict(self.evaluator.inputs(shown.rows[:1], seen[-1].index))

    def task_ended(self, task: int, columns: Columns) -> None:
        """Take over the exact evaluation after a task."""
        if self.every:
            chosen = self._in_subset(columns)
            self._note(task, {name: values[chosen] for name, values in columns.items()}, exact=False)
        self._note(task, columns, exact=True)

    def put_behind(self) -> list[list[int]]:
        """Return the rows since the last call, which belong to the task that has ended."""
        rows, self.rows = self.rows, []
        self.behind.append(_table(rows))
        return rows

    def columns(self) -> Columns:
        """Return the log, a column a name."""
        table = np.concatenate([*self.behind, _table(self.rows)])
        return {name: table[:, place] for place, name in enumerate(COLUMNS)}

    def state(self) -> dict[str, Any]:
        """Return everything since the last task ended, for a checkpoint, as plain numbers."""
        counts = [self.num_steps, self.num_trained, self.hits, self.tried]
        place = {"predicted_at": self.predicted_at, "met": sorted(self.met)}
        return {"rows": self.rows, "counts": counts, **place}

    def load(self, state: dict[str, Any], behind: Sequence[list[list[int]]]) -> None:
        """Go on from a checkpoint's state, and from the rows of each task before."""
        self.behind = [_table(rows) for rows in behind]
        self.rows, self.met = state["rows"], set(state["met"])
        self.num_steps, self.num_trained, self.hits, self.tried = state["counts"]
        self.predicted_at = state.get("predicted_at", self.predicted_at)  # not in the first checkpoints

    def _is_changed_since(self, task: int) -> bool:
        """Note that something is predicted; return whether anything was learnt since it last was."""
        before, self.predicted_at = self.predicted_at, [self.num_steps, task]
        return before != self.predicted_at

    def _note(self, in_task: int, columns: Columns, *, exact: bool) -> None:
        place = [self.num_steps, self.num_trained, in_task]
        if self.tried:
            self.rows.append([*place, PREQUENTIAL, self.hits, self.tried, 0])
            self.hits = self.tried = 0
        tasks, own = np.unique(columns["task"], return_inverse=True)
        hit = columns["prediction"] == columns["label"]
        hits, num = (np.bincount(own[rows], minlength=len(tasks)).tolist() for rows in (hit, slice(None)))
        about = zip(tasks.tolist(), hits, num, strict=True)
        self.rows += [[*place, task, right, of, int(exact)] for task, right, of in about]

    def _in_subset(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows of an evaluation are of the subsets."""
        num_rows = 1 + max(int(subset.rows.max(initial=0)) for subset in self.subsets)
        num_rows = max(num_rows, 1 + int(columns["row"].max(initial=0)))
        tasks = np.unique(columns["task"]).tolist()
        wanted = np.concatenate([task * num_rows + self.subsets[task].rows for task in tasks])
        task, row = (columns[name].astype(np.int64) for name in ("task", "row"))
        return np.isin(task * num_rows + row, wanted)

    def _known(self) -> torch.Tensor | None:
        """Return which classes have been met, where a stream has no boundaries that would tell."""
        if self.evaluator.stream.has_boundaries:
            return None
        known = torch.zeros(len(self.evaluator.stream.class_names), dtype=torch.bool)
        known[sorted(self.met)] = True
        return known.to(self.evaluator.batcher.device)

    def _shown(self, task: Task) -> Samples:
        subset = self.subsets[task.index]
        if self.evaluator.stream.has_boundaries:
            return subset
        return subset.select(np.isin(subset.labels, sorted(self.met)))


def _table(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, len(COLUMNS))
