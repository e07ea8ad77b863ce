"""Write what ``clbench show`` prints: all about one name, laid out for a terminal of any width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clbench.cli.arguments import NAMED
from clbench.cli.describing import Description, describe
from clbench.cli.listing import indented, rows


def showing(name: str, kind: str | None = None) -> RenderableType:
    """Return what a name is, its options and what combines with it; UnknownNameError if it is nothing.

    ``kind`` ("metric", "streams", ...) says among which names to look.
    """
    found = describe(name, kind)
    if len(found) == 1:
        return Group(*_shown(found[0]))
    strategy, module = found
    title = f"{name}: the strategy {strategy.name} with the module {module.name}"
    return Group(Text(title, style="bold"), Text(), *_shown(strategy), Text(), *_shown(module))


def _shown(what: Description) -> Iterator[RenderableType]:
    yield Text.assemble((what.name, "bold"), f"  ({what.kind})")
    yield indented(Group(*_spaced(map(_laid_out, what.paragraphs))))
    if what.facts:
        yield indented(rows(what.facts))
    if what.options:
        lines = [(each.name, each.type, each.default, each.comment) for each in what.options]
        in_file = f", or [{what.kind}] in a --config file" if what.kind in NAMED else ""
        yield Text(f"options  (--set {what.kind}.NAME=VALUE{in_file})")
        yield indented(rows([("name", "values", "default", ""), *lines]))
    yield from map(Text, map(str, what.notes))


def _spaced(parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """Put a line between parts."""
    for number, part in enumerate(parts):
        if number:
            yield Text()
        yield part


def _laid_out(paragraph: str) -> RenderableType:
    """Keep the lines of formulas and tables, which stand to the right; join those of anything else."""
    if not paragraph.startswith(" "):
        return Text(_reflowed(paragraph))
    lines = [line.strip() for line in paragraph.split("\n")]
    cells = [re.split(r" {2,}", line) for line in lines]
    is_table = len(lines) > 1 and {len(row) for row in cells} == {2}
    table = Table.grid(padding=(0, 2))  # of which every column may be broken, as a line may
    for row in cells if is_table else [[line] for line in lines]:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    return Padding(table, (0, 0, 0, 4))


def _reflowed(paragraph: str) -> str:
    """Join the lines of a paragraph and of each list item."""
    return re.sub(r"(?<=\S)\n(?=[^\s-])|(?<=\S)\n +(?=[^\s-])", " ", paragraph).replace("``", "")
