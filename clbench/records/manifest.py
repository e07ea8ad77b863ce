"""List the SHA-256 of every file of a record, so that what was changed since it was written can be told.

The list has the form that ``sha256sum --check`` reads. While a run goes on a line is added before each file
is written, so no kill can leave a file that the list does not know; at the end one line a file is left. Each
is hashed once, from the bytes that are written.

Not in the list: ``events.jsonl``, which grows by lines, and checkpoints, whose names hold checksums already.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from clbench.files import append_line, write_text
from clbench.outside.reading import RecordError, read_text, told_in_one_line

NAME = "manifest.sha256"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
PIECE = 1 << 22  # bytes hashed at a time


def note(folder: Path, name: str, data: bytes) -> None:
    """List a file that is about to be written into a record."""
    append_line(folder / NAME, f"{hashlib.sha256(data).hexdigest()}  {name}")


def listing(contents: Mapping[str, bytes]) -> str:
    """Return the list of some files, by name."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items())]
    return "".join(lines)


def known(folder: Path) -> dict[str, list[str]] | None:
    """Return the hashes that each file of a record has had, the newest last; None where there is no list.

    A line that is none, such as one that a kill has torn, is passed over.
    """
    if not (folder / NAME).exists():  # a record of an earlier version
        return None
    hashes: dict[str, list[str]] = {}
    for line in read_text(folder / NAME).splitlines():
        match = LINE.fullmatch(line)
        if match and _is_inside(match[2]):
            hashes.setdefault(match[2], []).append(match[1])
    if not hashes:
        raise RecordError(f"cannot read {folder / NAME}: it lists no file")
    return hashes


def close(folder: Path, last: Mapping[str, bytes]) -> None:
    """Leave one line a file, with its newest hash, and those of the ``last`` files, yet to be written."""
    hashes = known(folder) or {}
    newest = {name: its[-1] for name, its in hashes.items() if (folder / name).is_file()}
    newest |= {name: hashlib.sha256(data).hexdigest() for name, data in last.items()}
    write_text(folder / NAME, "".join(f"{newest[name]}  {name}\n" for name in sorted(newest)))


def changed(folder: Path, hashes: Mapping[str, list[str]], names: Iterable[str]) -> list[str]:
    """Return those of the names whose files are not, or no longer, what was written, or not there."""
    return [name for name in names if _hash_of(folder / name) not in hashes.get(name, [])]


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    total = hashlib.sha256()
    with told_in_one_line(file), open(file, "rb") as opened:
        while piece := opened.read(PIECE):
            total.update(piece)
    return total.hexdigest()


def _hash_of(file: Path) -> str:
    """Return the same; nothing where there is no file that could be read."""
    try:
        return hash_file(file) if file.is_file() else ""
    except RecordError:
        return ""


def _is_inside(name: str) -> bool:
    """Tell whether a name is that of a file in the record: anything may have been written into the list."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
