"""Read off a source file, without running it, which classes it registers under which names."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from clbench.errors import UserError

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

    @property
    def summary(self) -> str:
        """The first sentence of the documentation."""
        return self.doc.strip().split("\n", 1)[0].rstrip(".")


def read_cards(file: Path, module: str) -> list[Card]:
    """Return a card for each class in a file that is decorated with ``register("name", ...)``."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise not_python(file, error) from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    calls = [
        (node, call)
        for node in classes
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "register"
    ]
    cards = []
    for node, call in calls:
        try:
            name = ast.literal_eval(call.args[0])
            preset = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
        except (IndexError, ValueError) as error:
            raise RegistryError(
                f"{file}:{call.lineno}: @register takes a quoted name and literals"
            ) from error
        docs = [ast.get_docstring(tree) or "", ast.get_docstring(node) or ""]
        if len(calls) > 1:  # what sets the classes of a file apart comes first
            docs.reverse()
        cards.append(Card(name, "\n\n".join(docs).strip(), module, preset))
    return cards


def not_python(file: Path, error: SyntaxError | UnicodeDecodeError) -> RegistryError:
    """Return the one line that says where a file stops being Python."""
    if isinstance(error, SyntaxError):
        return RegistryError(f"{error.filename or file}:{error.lineno}: {error.msg}")
    return RegistryError(f"{file}: not UTF-8 text")
