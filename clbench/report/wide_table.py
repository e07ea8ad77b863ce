"""Lay out a table that is never cut: where it is wider than the terminal, its columns go on below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

SHORTEST_LINE = 11  # letters of a name, where it has to be broken
LONGEST_UNBROKEN = 24  # letters of a word in a name that room is made for
LONGEST_WORD = 11  # letters of a heading in a line, but for longer words
WIDE_GAP, NARROW_GAP = 2, 1  # between two columns: where there is room, and where that saves a table
EDGES = 2  # blanks at the two sides


@dataclass(frozen=True)
class WideTable:
    """Rows with a name, and columns of numbers, each as wide as its longest text."""

    corner: str  # heading of the names
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Text]]]  # name, and a text for each heading
    always: int = 0  # so many columns stand beside the names again where columns go on below

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give as many tables, one above the other, as the width asks for."""
        for gap in (WIDE_GAP, NARROW_GAP):
            parts = list(self._split(options.max_width, gap))
            if len(parts) == 1:
                break
        else:
            parts, gap = list(self._split(options.max_width, WIDE_GAP)), WIDE_GAP
        for columns in parts:
            yield self._table(columns, options.max_width, gap)

    def _split(self, width: int, gap: int) -> Iterator[list[int]]:
        """Yield the columns of each table: as many as fit beside names of a shortest line."""
        words = (cell_len(word) for name, _ in self.rows for word in name.split())
        unbroken = min(LONGEST_UNBROKEN, max(words, default=0))
        room = width - EDGES - min(self._name_width(), max(SHORTEST_LINE, width // 6, unbroken))
        first = list(range(self.always))
        chosen = list(first)
        for column in range(self.always, len(self.headings)):
            wanted = sum(self._width(each) + gap for each in [*chosen, column])
            if wanted > room and len(chosen) > len(first):
                yield chosen
                chosen = list(first)
            chosen.append(column)
        yield chosen

    def _table(self, columns: Sequence[int], width: int, gap: int) -> Table:
        taken = sum(self._width(column) + gap for column in columns)
        names = max(
            1, min(self._name_width(), width - EDGES - taken)
        )  # numbers are not cut, names are broken
        headings = {column: heading_lines(self.headings[column]) for column in columns}
        tallest = max((len(lines) for lines in headings.values()), default=1)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False)
        table.add_column("\n" * (tallest - 1) + self.corner, width=names)
        for column in columns:
            lines = headings[column]
            text = "\n".join([""] * (tallest - len(lines)) + lines)
            table.add_column(text, justify="right", no_wrap=True, width=self._width(column))
        for name, cells in self.rows:
            broken = "\n".join(textwrap.wrap(name, names)) if cell_len(name) > names else name
            table.add_row(Text(broken), *(cells[column] for column in columns))
        return table

    def _name_width(self) -> int:
        return max(map(cell_len, [self.corner, *(name for name, _ in self.rows)]))

    def _width(self, column: int) -> int:
        texts = [*heading_lines(self.headings[column]), *(cells[column].plain for _, cells in self.rows)]
        return max(map(cell_len, texts))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Take the whole width."""
        return Measurement(options.max_width, options.max_width)


def heading_lines(heading: str) -> list[str]:
    """Return a heading in short lines, broken between words."""
    return textwrap.wrap(heading, LONGEST_WORD, break_long_words=False, break_on_hyphens=False) or [""]
