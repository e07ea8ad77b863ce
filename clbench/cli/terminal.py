"""Write to the terminal, whatever it is: narrow, closed, no UTF-8, and whatever the text holds."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TextIO

from clbench.outside.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NARROWEST, WIDEST = 20, 10_000  # columns; what COLUMNS says beyond them is no width of a terminal
IN_ASCII = {  # what a terminal shows that has no other letters
    "·": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "─": "-",
    "×": "x",
    "±": "+-",
    "…": "...",
    "→": "->",
    "↑": "^",
    "↓": "v",
    "≤": "<=",
    "≥": ">=",
    "Σ": "sum",
    "┃": "|",
    "│": "|",
    "•": "*",
    "█": "#",
}


def prepare() -> None:
    """Make the three standard streams such that nothing written to them raises or lands elsewhere."""
    for descriptor in range(3):  # a file opened later would take the place of one that is closed
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("clbench", _replaced)
    is_closed = sys.stdout is None
    sys.stdout, sys.stderr = _kept(sys.stdout), _kept(sys.stderr)
    if is_closed:
        say("standard output is closed: nothing is printed")


def console(*, stderr: bool = False) -> Console:
    """Return what prints on the terminal, with control characters of what is printed escaped."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class Escaping(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(visible(segment.text, keep="\n"), segment.style)

    return Escaping(stderr=stderr, highlight=False, _environ=_environment(os.environ))


def show(what: RenderableType) -> None:
    """Print what was asked for: a text as it is, anything else laid out for the terminal's width."""
    console().print(what, crop=False, soft_wrap=isinstance(what, str), markup=False)


def say(line: str) -> None:
    """Write one line for the user beside what is printed."""
    print(visible(" ".join(line.split())), file=sys.stderr)


def forget_lost_output() -> None:
    """Give up standard output if it takes nothing any more; Python would flush to it once again."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None  # as Python has it where there is none


def _kept(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if hasattr(stream, "reconfigure"):  # not what a notebook or a test puts there
        stream.reconfigure(errors="clbench")
    return stream


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    replaced = "".join(IN_ASCII.get(each) or _as_in_python(each) for each in text)
    return replaced, error.end


def _as_in_python(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Leave out a size that no terminal has; rich would believe it."""
    sizes = {"COLUMNS": NARROWEST, "LINES": 1}
    return {
        name: value
        for name, value in given.items()
        if name not in sizes or (value.isdecimal() and sizes[name] <= int(value[:6]) <= WIDEST)
    }


def tick() -> str:
    """Return what stands before a promise that is kept, as far as the output can write it."""
    return _written("\N{CHECK MARK}", "ok")


def cross() -> str:
    """Return what stands before what is wrong."""
    return _written("\N{BALLOT X}", "no")


def _written(mark: str, instead: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return mark if mark.encode(encoding, "ignore") else instead
