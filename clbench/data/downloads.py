"""Download a collection once: with a limit on every wait, and kept only when it is there as a whole."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from clbench.files import temporary_folder

TIMEOUT = 5  # seconds without an answer
FAILURES = (OSError, RuntimeError, HTTPException)  # what a download, or torchvision's check of it, raises
Download = Callable[[str], object]  # puts a collection into the folder that it is given


def archive(url: str, md5: str) -> Download:
    """Return the download of one archive, unpacked only if its checksum is right."""

    def download(folder: str) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(url, folder, md5=md5, remove_finished=True)

    return download


def fetch(download: Download, folder: Path) -> None:
    """Run a download beside the folder's content and move it in when it is whole; one of ``FAILURES``."""
    folder.mkdir(parents=True, exist_ok=True)
    with patience(TIMEOUT), temporary_folder(folder / "download") as begun:
        download(str(begun))
        for entry in begun.iterdir():
            if not (folder / entry.name).exists():  # another run may have been faster
                os.replace(entry, folder / entry.name)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let a network connection wait at most so long for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
