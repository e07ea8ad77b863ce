"""Turn groups into the rows of a page's table, which sorts numbers by value and says what each column is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from clbench.evaluate import METRICS
from clbench.report.columns import IF_KNOWN, QUALITY, Column, costs_shown
from clbench.report.comparing import mean_ranks
from clbench.report.groups import Group
from clbench.report.table import best_labels
from clbench.report.units import UNKNOWN

ACCURACY = QUALITY[0]
RANK = Column(
    "rank", "mean rank", lambda mean, std: UNKNOWN if math.isnan(mean) else f"{mean:.1f}", "", False
)
MEANING = {
    "rank": "Place by accuracy A_T among the groups of its stream, mean over the seeds that all have.",
    "parameters.trainable": "Numbers that training changes.",
    "stored_bytes.total": "Bytes that the strategy keeps between tasks, the backbone's own weights aside.",
    "capacity_bytes.total": "The same if every memory were full.",
    "packed_bytes.total": "The stored bytes with quantised weights bit-packed: enough to predict.",
    "flops.training": "Floating-point operations of the training: steps, replay, queries, frozen features.",
    "memory.process.peak": "The most memory that the process held.",
    "deployed_bytes": "The backbone and all that has to be added to it to predict, packed.",
    "bit_operations.evaluate_per_image": "Multiply-adds of a prediction, each by the bits of its operands.",
    "speed.latency_ratio": "Time of one prediction by that of the learner in float, in the same minute.",
    "speed.throughput_ratio": "Predictions a second, many at once, by those of the learner in float.",
    "calibration.seconds": "Time to choose how values are rounded, after the last task.",
    "seconds": "Wall time of the whole run, from start-up to figures; before 0.1.0, of what had a phase.",
}


class StreamGroups(Protocol):
    """The groups that met one stream, in the order of their rows."""

    @property
    def groups(self) -> Sequence[Group]:
        """The groups."""


class Heading(NamedTuple):
    """What stands above a column."""

    text: str
    better: str = ""  # "higher", "lower" or empty
    order: str = ""  # how the rows are sorted by it at first, if they are


class Cell(NamedTuple):
    """A number: its text, what it is sorted by (empty: not known), and whether it is the best."""

    text: str
    value: str
    is_best: bool = False


class Row(NamedTuple):
    """A group."""

    label: str
    cells: list[Cell]


def columns(streams: Sequence[StreamGroups], quality: Sequence[Column] = QUALITY) -> list[Column]:
    """Return what is shown: what every run knows, and what some do; or the chosen ``quality``."""
    groups = [group for part in streams for group in part.groups]
    known = [column for column in IF_KNOWN if any(_is_known(group, column.key) for group in groups)]
    if quality is not QUALITY:
        known = []
    costs = costs_shown(values for group in groups for values in group.values)
    return [*quality, *known, RANK, *costs]


def headings(streams: Sequence[StreamGroups], quality: Sequence[Column] = QUALITY) -> list[Heading]:
    """Return the headings; rows of one stream come sorted by the first number, the accuracy."""
    words = {True: "higher", False: "lower", None: ""}
    order = {ACCURACY.key: "descending"} if len(streams) == 1 else {}
    named = [
        Heading(column.heading, words[column.higher_is_better], order.get(column.key, ""))
        for column in columns(streams, quality)
    ]
    return [Heading("run"), Heading("n"), *named]


def rows(streams: Sequence[StreamGroups], quality: Sequence[Column] = QUALITY) -> list[Row]:
    """Return a row a group, stream after stream."""
    found, shown = [], columns(streams, quality)
    for part in streams:
        ranks = mean_ranks(part.groups, ACCURACY.key)
        best = {column.key: best_labels(part.groups, column) for column in shown}
        for group in part.groups:
            cells = [Cell(str(len(group.records)), str(len(group.records)))]
            for column in shown:
                mean, std = group.statistic(column.key)
                if column is RANK:
                    mean, std = ranks.get(group.label, math.nan), math.nan
                value = "" if math.isnan(mean) else repr(mean)
                cells.append(Cell(column.show(mean, std), value, group.label in best[column.key]))
            found.append(Row(group.label, cells))
    return found


def definitions(
    streams: Sequence[StreamGroups], quality: Sequence[Column] = QUALITY
) -> list[tuple[str, str]]:
    """Return each column's title and what it says."""
    meaning = dict(MEANING)
    shown = columns(streams, quality)
    for column in (each for each in shown if each.key in METRICS):
        about = METRICS[column.key]
        meaning[column.key] = f"{about.summary}. {about.formula}; {about.averaging}."
    return [(column.title, meaning[column.key]) for column in shown]


def _is_known(group: Group, key: str) -> bool:
    return not all(map(math.isnan, group.numbers(key)))
