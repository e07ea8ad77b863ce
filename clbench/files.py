"""Write files so that a reader finds the old content or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
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


class WriteError(UserError, OSError):
    """A file or folder that cannot be written; what was there before is untouched."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and rename it."""
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
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
        raise _explained(path, error) from error


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
        raise _explained(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(path, error) from error


def make_new_folder(path: Path) -> Path:
    """Make a folder that was not there, under this name or with ``-2``, ``-3``, ... after it; return it."""
    make_folder(path.parent)
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        except OSError as error:
            raise _explained(candidate, error) from error
        else:
            return candidate


def _explained(path: Path, error: OSError) -> WriteError:
    reason = (error.strerror or str(error)).lower()
    advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return WriteError(f"cannot write {path}: {reason}{advice}")
