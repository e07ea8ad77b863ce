"""Read off source files, without running them, which options a registered class has, and of which types.

Components import torch, which takes seconds; whether a word on the command line is an option takes none.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Field

from clbench.cards import Row, read_rows
from clbench.registry import Registry
from clbench.tables import type_of_words

WORDS: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
ROOTS = {"ABC", "object", "Generic"}  # bases that bring no options


class UnreadableError(Exception):
    """Something whose value only running the code would tell."""


def declared_options(registry: Registry[Any], name: str) -> dict[str, Any] | None:
    """Return the annotated type of each option of a registered name; ``Any`` where it cannot be read.

    None if the file does not tell which options there are, as of a class in somebody else's package.
    """
    card = registry.card(name) if name in registry.indexed() else None
    if card is None:
        return None
    try:
        module = _Module.of(card.origin)
        rows = [row for row in read_rows(module.file) if row.name == name]
        return _of_row(module, rows[0]) if rows else _of_class(module, card.title)
    except UnreadableError:
        return None


class _Module:
    """A source file of ours, and what its names stand for."""

    def __init__(self, name: str, file: Path) -> None:
        self.file = file
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.values = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        self.imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module and not node.level
            for alias in node.names
        }

    @classmethod
    @cache
    def of(cls, name: str) -> _Module:
        """Return the file of a module of clbench; UnreadableError for any other's."""
        top, *parts = name.split(".")
        if top != "clbench":
            raise UnreadableError(name)
        folders = [Path(__file__).parents[1]]
        for depth, part in enumerate(parts[:-1], start=1):
            folders = [folder / part for folder in folders]
            if depth == 1 and part in ("strategies", "streams"):
                folders = [Path(folder) for folder in importlib.import_module(f"{top}.{part}").__path__]
        last = parts[-1] if parts else ""
        for folder in folders:
            for file in (folder / f"{last}.py", folder / last / "__init__.py"):
                if file.is_file():
                    return cls(name, file)
        raise UnreadableError(name)

    def where(self, name: str) -> tuple[_Module, str]:
        """Return the file that a name was imported from, and what it is called there; else this one."""
        if name in self.imported:
            module, own = self.imported[name]
            return self.of(module), own
        return self, name


def _of_class(module: _Module, name: str) -> dict[str, Any]:
    """Return the options of a class, those of its bases first."""
    module, name = module.where(name)
    if name not in module.classes:
        raise UnreadableError(name)
    found: dict[str, Any] = {}
    for base in reversed(module.classes[name].bases):
        word = base.value if isinstance(base, ast.Subscript) else base
        if not isinstance(word, ast.Name):
            raise UnreadableError(ast.unparse(base))
        if word.id not in ROOTS:
            found |= _of_class(module, word.id)
    return found | dict(_own(module, module.classes[name]))


def _of_row(module: _Module, row: Row) -> dict[str, Any]:
    """Return the options of a class that a table describes."""
    if not row.bases:  # those are in the code that makes the class
        raise UnreadableError(row.name)
    found: dict[str, Any] = {}
    for base in reversed(row.bases):
        found |= _of_class(module, base)
    own = {name: option[1] for name, option in row.options.items() if isinstance(option, list)}
    return found | {name: type_of_words(words) for name, words in own.items()}


def _own(module: _Module, node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if ast.unparse(field.annotation).startswith(("ClassVar", "typing.ClassVar")):
            continue
        if field.value is not None and "init=False" in ast.unparse(field.value):
            continue
        try:
            yield field.target.id, _type_of(module, field.annotation)
        except UnreadableError:
            yield field.target.id, Any


def _type_of(module: _Module, node: ast.expr) -> Any:
    """Return what an annotation means; UnreadableError for what is not made of plain words."""
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # a name in an imported module
        package, own = module.imported.get(node.value.id, ("", ""))
        return _type_of(_Module.of(f"{package}.{own}"), ast.Name(node.attr))
    if isinstance(node, ast.Name):
        home, own = module.where(node.id)
        if own in home.values:
            return _type_of(home, home.values[own])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_type_of(module, node.left), _type_of(module, node.right)]  # noqa: UP007
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(map(_value, inside))]
        if node.value.id == "Annotated":
            limits = [
                each for each in inside[1:] if ast.unparse(each) != "LATER"
            ]  # which allows what others do
            if not limits:
                return _type_of(module, inside[0])
            field = Field(**{key.arg: _value(key.value) for key in _keywords(limits[0])})
            return Annotated[_type_of(module, inside[0]), field]
    raise UnreadableError(ast.unparse(node))


def _keywords(call: ast.expr) -> Iterator[Any]:
    if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "Field" and not call.args):
        raise UnreadableError(ast.unparse(call))
    yield from call.keywords


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UnreadableError(ast.unparse(node)) from error
