"""Let one process at a time write into a record.

The operating system holds the lock and lets it go when the process ends, however it ends: nothing has to be
removed by hand after a crash. Who holds it stands in a file beside it.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from clbench.errors import UserError
from clbench.files import write_error, write_text
from clbench.outside.reading import RecordError, read_text

LOCK = ".lock"
HOLDER = ".lock-holder"  # not in the lock: on some systems a locked file cannot be read

log = logging.getLogger(__name__)


class LockedError(UserError, RuntimeError):
    """A record that another process is writing."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the record in the block; LockedError says who holds it already."""
    lock = FileLock(str(folder / LOCK))
    is_held = _hold(lock, folder)
    try:
        if is_held:
            now = datetime.now().isoformat(sep=" ", timespec="seconds")
            write_text(folder / HOLDER, f"process {os.getpid()} on {platform.node()}, since {now}")
        yield
    finally:
        if is_held:
            with suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)
            lock.release()


def remove_lock(folder: Path) -> None:
    """Remove the lock's file from a record that nobody will write into any more."""
    with suppress(OSError):  # a system that removes no open files keeps it
        (folder / LOCK).unlink(missing_ok=True)


def _hold(lock: FileLock, folder: Path) -> bool:
    """Return whether the record is held now; where the file system knows no locks, it is said and gone on."""
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockedError(
            f"{folder} is being written by {_holder(folder)}; wait, or stop that one"
        ) from error
    except NotImplementedError:
        log.warning("%s lies where files cannot be locked: see that only one process writes it", folder)
        return False
    except OSError as error:
        raise write_error(folder / LOCK, error) from error
    return True


def _holder(folder: Path) -> str:
    try:
        return read_text(folder / HOLDER).strip() or "another process"
    except RecordError:
        return "another process"
