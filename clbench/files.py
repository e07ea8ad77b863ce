"""Write files and folders so that a reader finds the old content or the new one, whole, whatever happens.

What is being written has a temporary name that tells who writes it: machine and process. So what a killed
process left is known from what a living one is still writing, without a lock on every file.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clbench.errors import UserError

ADVICE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file is in the way; choose another folder",
    errno.EEXIST: "a file is in the way; choose another folder",
}
TEMPORARY = re.compile(r"\..*\.(?P<machine>[^.]+)\.(?P<process>\d+)\.tmp")
LONGEST_STEM = 60  # letters of a name that go into the temporary one
MINUTE, DAY = 60, 86400  # seconds


class WriteError(UserError, OSError):
    """A file or folder that cannot be written; what was there before is untouched."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and rename it."""
    temporary = temporary_path(path)
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and flush it; a line that a crash has torn is ended first."""
    try:
        with open(path, "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside a path, under a temporary name; what is in it after the block is removed."""
    sweep(path.parent)
    temporary = temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_to_new(folder: Path, path: Path) -> Path:
    """Give a folder a name that was not there: this one, or it with ``-2``, ``-3``, ... after it."""
    candidate, number = path, 1
    while True:
        if not os.path.lexists(candidate):  # an empty folder would be replaced
            try:
                os.rename(folder, candidate)
            except OSError as error:
                if not os.path.lexists(candidate):  # else another process was faster
                    raise write_error(candidate, error) from error
            else:
                return candidate
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")


def rename_to(folder: Path, path: Path) -> Path:
    """Give a folder a name; WriteError if something has it."""
    if os.path.lexists(path):  # an empty folder would be replaced
        raise write_error(path, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))
    try:
        os.rename(folder, path)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def temporary_path(path: Path) -> Path:
    """Return a name beside a path that no other process writes to."""
    return path.parent / f".{path.name[:LONGEST_STEM]}.{_machine()}.{os.getpid()}.tmp"


def is_temporary(path: Path) -> bool:
    """Return whether a name is one that something has only while it is written."""
    return TEMPORARY.fullmatch(path.name) is not None


def sweep(folder: Path, *, is_ours: bool = False) -> None:
    """Remove what killed processes had begun to write into a folder; not what a living one is writing.

    ``is_ours`` says that nobody else can be writing there: then everything temporary goes.
    """
    with suppress(OSError):  # a folder that cannot be listed is not to be swept
        for path in folder.glob(".*.tmp"):
            if is_temporary(path) and (is_ours or _is_left(path)):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> WriteError:
    """Return an error of the file system as one line with advice."""
    reason = (error.strerror or str(error)).lower()
    advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return WriteError(f"cannot write {path}: {reason}{advice}")


def _is_left(path: Path) -> bool:
    """Tell what a killed process left: it is gone, or on another machine, and nobody wrote for a day.

    Two containers may share a folder and a name, and number their processes alike, so what was written to in
    the last minute is left alone.
    """
    import psutil

    match = TEMPORARY.fullmatch(path.name)
    assert match is not None
    try:
        touched = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except OSError:  # it is being renamed or removed just now
        return False
    idle = time.time() - touched
    if match["machine"] == _machine():
        return idle > MINUTE and not psutil.pid_exists(int(match["process"]))
    return idle > DAY


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", platform.node())[:32] or "-"
