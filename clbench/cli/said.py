"""Lay out what a learner says of pictures: as a table for people, as CSV or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from clbench.cli.terminal import cross, tick
from clbench.report.spreadsheet import csv_text
from clbench.report.units import percent

BAR = 12  # letters of the bar of a probability of 1


@dataclass(frozen=True)
class Said:
    """What is said of one picture."""

    file: Path
    top: list[tuple[str, float]]  # classes and their scores, the highest first
    its_class: str | None  # what the class folder says that it lies in

    @property
    def is_right(self) -> bool:
        """Whether the highest class is the one that its folder says."""
        return self.top[0][0] == self.its_class


@dataclass(frozen=True)
class AllSaid:
    """What is said of all pictures."""

    learner: Path
    rows: list[Said]
    unreadable: dict[Path, str]  # what is wrong with a file
    kind: str  # of a score: probability, or score

    @property
    def labelled(self) -> list[Said]:
        """What is said of pictures that lie in a class folder."""
        return [row for row in self.rows if row.its_class is not None]

    @property
    def num_right(self) -> int:
        """The number of those whose highest class is the one that their folder says."""
        return sum(row.is_right for row in self.labelled)


def table(said: AllSaid, base: Path | None) -> Table:
    """Return a row for each picture and class, the files as they are below ``base``, if that is given."""
    with_bar, with_class = said.kind == "probability", bool(said.labelled)
    laid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    laid.add_column("file", overflow="fold")
    laid.add_column("class", overflow="fold")
    laid.add_column(said.kind, justify="right", no_wrap=True)
    if with_bar:
        laid.add_column(width=BAR, no_wrap=True)
    if with_class:
        laid.add_column("its folder", overflow="fold")
    for row in said.rows:
        file = row.file.relative_to(base) if base else row.file
        for rank, (name, score) in enumerate(row.top):
            style = "dim" if rank else ""
            cells = [Text("" if rank else str(file)), Text(name, style=style or "bold")]
            cells.append(Text(f"{percent(score)} %" if with_bar else f"{score:.3f}", style=style))
            if with_bar:
                cells.append(Text("█" * round(BAR * score), style=style or "cyan"))
            if with_class:
                cells.append(_checked(row) if not rank else Text())
            laid.add_row(*cells)
    return laid


def csv(said: AllSaid) -> str:
    """Return a line for each picture and class, numbers in full precision."""
    header = ["file", "rank", "class", said.kind, "folder"]
    rows = [
        [str(row.file), rank, name, repr(score), row.its_class or ""]
        for row in said.rows
        for rank, (name, score) in enumerate(row.top, start=1)
    ]
    return csv_text(header, rows)


def as_json(said: AllSaid) -> str:
    """Return one object: what is said of each picture, and how much is right as far as that is known."""
    num = len(said.labelled)
    value = {
        "learner": str(said.learner),
        "pictures": [
            {
                "file": str(row.file),
                "folder": row.its_class,
                "predictions": [{"class": name, said.kind: score} for name, score in row.top],
            }
            for row in said.rows
        ],
        "unreadable": [{"file": str(file), "reason": reason} for file, reason in said.unreadable.items()],
        "accuracy": said.num_right / num if num else None,
        "num_in_class_folders": num,
    }
    return json.dumps(value, indent=2) + "\n"


def accuracy(said: AllSaid, known: Sequence[str], num_classes: int) -> str:
    """Return how many pictures in class folders are right, in words."""
    num = len(said.labelled)
    classes = "class" if num_classes == 1 else "classes"
    return (
        f"accuracy {percent(said.num_right / num)} %: {said.num_right} of n = {num:,} pictures, in folders of"
        f" {len(known)} of {num_classes} {classes}"
    )


def _checked(row: Said) -> Text:
    if row.its_class is None:
        return Text()
    mark, style = (tick(), "green") if row.is_right else (cross(), "red")
    return Text(f"{mark} {row.its_class}", style=style)
