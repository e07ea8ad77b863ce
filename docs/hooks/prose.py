"""Turn the plain text of docstrings into Markdown that says the same, whatever characters it is made of."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable

CODE = re.compile(r"``(.+?)``", re.DOTALL)
SETTING = re.compile(
    r"--set [a-z_.]+=\S+"
    r"|\bclbench(?: (?:--)?[a-zA-Z][\w:.-]*)+"
    r"|--[a-z][a-z-]*(?: [A-Z][A-Z-]*\b| [\w/]+\.py:\w+)?"
    r"|\b[a-z_.]+=[\w.:-]+\b"
    r"|\b[\w/]+\.py:\w+"
)
ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
DIFFERENCE = re.compile(r"(Differs from [^:]+):\s*")


def markdown(paragraphs: Iterable[str]) -> str:
    """Return the paragraphs of a docstring as Markdown, what differs from a paper last, under a heading."""
    found = list(paragraphs)
    differences = [each for each in found if DIFFERENCE.match(each)]
    blocks = [_block(each) for each in found if each not in differences]
    for each in differences:
        heading = DIFFERENCE.match(each)
        assert heading is not None
        rest = each[heading.end() :]
        blocks += [f"## {escaped(heading[1])}", _block(rest[:1].upper() + rest[1:])]
    return "\n\n".join(blocks)


def prose(text: str) -> str:
    """Return a piece of running text as Markdown: ``marked`` words as code, arXiv numbers as links."""
    return _with_code(" ".join(text.split()), CODE, group=1)


def advice(text: str) -> str:
    """Return a line written for a terminal as Markdown: commands and settings in it as code."""
    return _with_code(" ".join(text.split()), SETTING, group=0)


def code(text: str) -> str:
    """Return a few words as code."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def choices(text: str) -> str:
    """Return the values that an option takes as code, each choice by itself, so that a table can break."""
    return r" \| ".join(map(code, text.split(" | ")))


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Return plain text in which Markdown sees no mark-up."""
    marked = re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", html.escape(text, quote=False))
    marked = re.sub(r"^(\d+)([.)])", r"\1\\\2", marked)
    return re.sub(r"^([-+])", r"\\\1", marked)


def _block(paragraph: str) -> str:
    """Return a paragraph, a list with the words before it, or, where all is indented, a block of code."""
    lines = paragraph.split("\n")
    if all(line.startswith("    ") for line in lines):
        return f"```text\n{textwrap.dedent(paragraph)}\n```"
    before, *items = re.split(r"^- ", paragraph, flags=re.MULTILINE)
    written = [prose(before)] if before.strip() else []
    if items:
        written.append("\n".join(f"- {prose(item)}" for item in items))
    return "\n\n".join(written)


def _with_code(text: str, marks: re.Pattern[str], *, group: int) -> str:
    """Set what a pattern finds as code, and escape the rest."""
    parts, end = [], 0
    for found in marks.finditer(text):
        parts += [_linked(text[end : found.start()]), code(found[group])]
        end = found.end()
    return "".join([*parts, _linked(text[end:])])


def _linked(text: str) -> str:
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", escaped(text))
