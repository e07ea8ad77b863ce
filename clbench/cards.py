"""Read off a source file, without running it, which classes it registers under which names.

The names stand in decorators, and in the table of classes (``clbench.tables``) that may lie beside the file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clbench.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Literal = str | int | float | bool | None


class RegistryError(UserError, ValueError):
    """A file that cannot be read, or a name that two classes claim."""


@dataclass(frozen=True)
class Card:
    """What is known of a name without running its code."""

    name: str
    doc: str  # the file's docstring, then the class's; the other way round where a file has several
    origin: str  # the module, entry point or file it comes from
    preset: dict[str, Literal] = field(default_factory=dict)  # the keywords of @register
    title: str = ""  # the class's own name, of a card that was read off a file

    @property
    def summary(self) -> str:
        """The first sentence of the documentation."""
        return self.doc.strip().split("\n", 1)[0].rstrip(".")


@dataclass(frozen=True)
class Row:
    """A class that a table describes; ``clbench.tables`` says how, and makes it."""

    name: str
    title: str  # the class's own name
    doc: str
    options: dict[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] = ()  # names that the file knows
    preset: dict[str, Literal] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def read_cards(file: Path, module: str) -> list[Card]:
    """Return a card for each class that a file registers, by a decorator or as a row of its table."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise not_python(file, error) from error
    rows = ((row.name, row.doc, row.preset, row.title) for row in read_rows(file))
    found = [*_decorated(tree, file), *rows]
    cards = []
    for name, own, preset, title in found:
        docs = [ast.get_docstring(tree) or "", own]
        if len(found) > 1:  # what sets the classes of a file apart comes first
            docs.reverse()
        cards.append(Card(name, "\n\n".join(docs).strip(), module, preset, title))
    return cards


def _decorated(tree: ast.Module, file: Path) -> Iterator[tuple[str, str, dict[str, Literal], str]]:
    """Yield name, docstring, preset and title of each class decorated with ``register("name", ...)``."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    calls = [
        (node, call)
        for node in classes
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "register"
    ]
    for node, call in calls:
        try:
            name = ast.literal_eval(call.args[0])
            preset = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
        except (IndexError, ValueError) as error:
            raise RegistryError(
                f"{file}:{call.lineno}: @register takes a quoted name and literals"
            ) from error
        yield name, ast.get_docstring(node) or "", preset, node.name


def source_files(file: Path) -> list[Path]:
    """Return what a Python file's classes are read from: the file, and its table if there is one."""
    table = file.with_suffix(".table.toml")
    return [file, table] if table.is_file() else [file]


def read_rows(file: Path) -> list[Row]:
    """Return the rows of the table beside a Python file; none where there is no table."""
    return [row for table in source_files(file)[1:] for row in _rows(table)]


def _rows(table: Path) -> Iterator[Row]:
    try:
        sections = tomllib.loads(table.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RegistryError(f"{table}: not valid TOML: {error}") from error
    preset, bases = sections.pop("preset", {}), sections.pop("bases", ())
    for name, section in sections.items():
        if not isinstance(section, dict) or not {"class", "summary"} <= section.keys():
            raise RegistryError(f"{table}: [{name!r}] needs class and summary")
        yield Row(
            name,
            title=section.pop("class"),
            doc="\n\n".join(section.pop(key) for key in ("summary", "about") if key in section),
            options=section.pop("options", {}),
            bases=tuple(section.pop("bases", bases)),
            preset=preset,
            attributes=section,
        )


def not_python(file: Path, error: SyntaxError | UnicodeDecodeError) -> RegistryError:
    """Return the one line that says where a file stops being Python."""
    if isinstance(error, SyntaxError):
        return RegistryError(f"{error.filename or file}:{error.lineno}: {error.msg}")
    return RegistryError(f"{file}: not UTF-8 text")
