"""Write what is measured on one backbone: each row as soon as it is there, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console
from rich.text import Text

from clbench import backbones
from clbench.backbones.backbone import Backbone
from clbench.cli.arguments import parse_settings
from clbench.compress.survey import Surveyed as Degree
from clbench.files import make_folder, write_text
from clbench.options import SpecError, build
from clbench.petl.survey import Surveyed as Module
from clbench.report.spreadsheet import csv_text

Row = TypeVar("Row", bound=Module | Degree)


@dataclass(frozen=True)
class Table(Generic[Row]):
    """What a table of rows of one kind looks like."""

    heading: str
    first: str  # what the names in the first column are
    longest: int  # characters of such a name
    columns: Mapping[str, tuple[int, Callable[[Row], str]]]  # heading: width, and what stands below it
    note: str  # what the columns mean

    def print(self, rows: Iterable[Row], console: Console, csv: Path | None = None) -> None:
        """Print each row as soon as it is measured; write them as CSV, too."""
        console.print(Text(self.heading, style="bold"))
        measured: list[Row] = []
        for row in rows:
            if not row.refusal:
                if all(each.refusal for each in measured):
                    self._print_line(console, self.first, list(self.columns))
                self._print_line(console, row.name, [show(row) for _, show in self.columns.values()])
            measured.append(row)
        if not all(each.refusal for each in measured):
            console.print(Text(self.note, style="dim"))
        _print_refused(console, measured)
        if csv:
            make_folder(csv.parent)
            cells = [asdict(row) for row in measured]
            write_text(csv, csv_text(list(cells[0]), [list(row.values()) for row in cells]))
            console.print(Text(f"written: {csv}"), soft_wrap=True)

    def _print_line(self, console: Console, name: str, cells: Sequence[str]) -> None:
        """Print a row in columns; on a narrow screen the name above, and what fits a line below it."""
        widths = [width for width, _ in self.columns.values()]
        needed = self.longest + sum(widths) + 2 * len(widths)
        gap = 2 if needed <= console.width else 1
        texts = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        if needed - (2 - gap) * len(widths) <= console.width:
            lines = [(" " * gap).join([name.ljust(self.longest), *texts])]
        else:
            lines = [name, ""]
            for text in texts:
                if len(lines[-1]) + gap + len(text) > console.width and lines[-1]:
                    lines.append("")
                lines[-1] += " " * gap + text
        console.print(Text("\n".join(lines)), soft_wrap=True)


def chosen_backbone(name: str, settings: Sequence[str], kind: str) -> Backbone:
    """Return what a ``kind`` is measured on, with the settings of ``--set backbone.OPTION=VALUE``."""
    sections = parse_settings(settings)
    for section in sections:
        if section != "backbone":
            raise SpecError(f"--set {section}...: only backbone.OPTION=VALUE goes with: clbench list {kind}")
    return backbones.create(name, build(backbones.BackboneOptions, "backbone", sections.get("backbone", {})))


def _print_refused(console: Console, rows: Sequence[Module | Degree]) -> None:
    refused: dict[str, list[str]] = {}
    for each in rows:
        if each.refusal:
            refused.setdefault(each.refusal, []).append(each.name)
    if refused:
        console.print(Text("\nDo not fit this backbone", style="bold"))
    for reason, names in refused.items():
        named = ", ".join(names)
        console.print(Text(f"· {reason}" if reason.startswith(named) else f"· {named}: {reason}"))
