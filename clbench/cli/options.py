"""Read what a component's options are: name, type, default, and the comment beside the field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from clbench.options import option_types, own_hints

BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Option:
    """One option of a component, in words."""

    name: str
    type: str
    default: str
    comment: str


def options(component: type) -> list[Option]:
    """Return the options of a component's dataclass, its own first and then those it inherits."""
    defaults = {field.name: field.default for field in dataclasses.fields(component)}
    hints = option_types(component)
    told = {
        name: comment
        for each in reversed(component.__mro__)
        for name, comment in comments(each).items()
        if comment  # a subclass that only changes a default says nothing new
    }
    told |= {
        field.name: field.metadata["comment"]  # of a class made from a table, which has no source
        for field in dataclasses.fields(component)
        if field.metadata.get("comment")
    }
    own = [name for name in hints if name in own_hints(component)]
    order = [*own, *(name for name in hints if name not in own)]
    return [
        Option(name, type_in_words(hints[name]), value_in_words(defaults[name]), told.get(name, ""))
        for name in order
    ]


def comments(component: type) -> dict[str, str]:
    """Return the comment on the lines of each field that a class declares."""
    try:
        source = textwrap.dedent(inspect.getsource(component))
    except (OSError, TypeError):  # built-in, or its source is gone
        return {}
    written = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    return {
        node.target.id: " ".join(written[line] for line in _lines(node) if line in written)
        for node in fields
        if isinstance(node.target, ast.Name)
    }


def type_in_words(hint: Any) -> str:
    """Return an annotation as a user reads it: ``int >= 1``, ``adam | adamw | sgd``."""
    if typing.get_origin(hint) is typing.Annotated:
        base, *metadata = typing.get_args(hint)
        bounds = [bound for each in metadata for bound in _bounds(each)]
        return " ".join([type_in_words(base), ", ".join(bounds)]).strip()
    if typing.get_origin(hint) is Literal:
        return " | ".join(str(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(type_in_words(each) for each in typing.get_args(hint))
    return {str: "text", bool: "true | false", type(None): "none"}.get(hint, inspect.formatannotation(hint))


def value_in_words(value: object) -> str:
    """Return a default as it is typed after ``--set section.name=``."""
    if value is dataclasses.MISSING:
        return "(needed)"
    return str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _bounds(metadata: object) -> Iterator[str]:
    """Read the limits that pydantic's ``Field(ge=..., lt=...)`` puts into an annotation."""
    for constraint in getattr(metadata, "metadata", []):
        for name, sign in BOUNDS.items():
            limit = getattr(constraint, name, None)
            if limit is not None:
                yield f"{sign} {limit}"


def _lines(node: ast.AnnAssign) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
