"""Read what others have made: regular files only, and sizes checked before memory is asked for.

A file's header is data. What it claims is compared with what is there, so that a few bytes can neither hang a
run nor have it killed; nothing is unpickled.
"""

from __future__ import annotations

import io
import lzma
import os
import pickle
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# What a parser, one of a library's included, may raise over bytes that are not what it was written for.
DAMAGE: tuple[type[Exception], ...] = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError),
    *(lzma.LZMAError, pickle.PickleError, struct.error, tokenize.TokenError),  # numpy tokenizes headers
    *(zipfile.BadZipFile, zlib.error),
)
MOST_TEXT = 1 << 28  # bytes of a list; DomainNet's longest has a tenth
MOST_MATLAB = 1 << 30  # bytes that a file of MATLAB's may unpack into; SVHN's training part has a third
MOST_PACKED = 20  # times that weights are larger than in their file; trained ones hardly shrink at all
MOST_TABLE = 1 << 32  # bytes of a table; a log of a million predictions has a fiftieth
PIECE = 1 << 20  # bytes unpacked at a time
MATLAB_HEADER, MATLAB_COMPRESSED = 128, 15  # bytes before the first element; the type of a packed one
LONGEST_HEADER = 1 << 14  # bytes of an npy header; numpy's own limit is below it
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """Something that is there and is no file: reading a pipe or a device may never end."""


@dataclass(frozen=True)
class NpyHeader:
    """What the header of an array says of it."""

    shape: tuple[int, ...]
    is_fortran: bool  # whether the first index runs fastest
    dtype: np.dtype[np.generic]
    offset: int  # bytes before the first value

    @property
    def num_bytes(self) -> int:
        """Bytes of all values; as Python's numbers have no limit, no product overflows."""
        total = self.dtype.itemsize
        for side in self.shape:
            total *= side
        return total


def regular(path: Path) -> os.stat_result:
    """Return the status of a regular file, also behind links; an OSError for what is none."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
        raise NotRegularError(f"it is {kind}, not a file")
    return status


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Return a UTF-8 text file; an OSError or ValueError where it is none or has more than ``most`` bytes."""
    size = regular(path).st_size
    if size > most:
        raise ValueError(f"it has {size} bytes; at most {most} are read")
    return path.read_text(encoding="utf-8")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or what kind of error it is."""
    said = error.strerror if isinstance(error, OSError) else None
    lines = (said or str(error)).strip().splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__


def check_matlab(path: Path) -> None:
    """Raise a ValueError where a file of MATLAB's unpacks into more than any of the collections' does."""
    size, total = regular(path).st_size, 0
    with open(path, "rb") as file:
        order = "<" if file.read(MATLAB_HEADER)[-2:] == b"IM" else ">"
        place = MATLAB_HEADER
        while place + 8 <= size:
            file.seek(place)
            kind, length = struct.unpack(f"{order}II", file.read(8))
            total += _unpacked(file, length) if kind == MATLAB_COMPRESSED else 0
            if total > MOST_MATLAB:
                raise ValueError(f"it unpacks into more than {MOST_MATLAB:,} bytes")
            place += 8 + length


def _unpacked(file: IO[bytes], length: int) -> int:
    """Return how many bytes the next ``length`` bytes unpack into, at most a little over the limit."""
    unpacker, total = zlib.decompressobj(), 0
    while length > 0 and total <= MOST_MATLAB and (piece := file.read(min(PIECE, length))):
        length -= len(piece)
        while piece and total <= MOST_MATLAB:
            total += len(unpacker.decompress(piece, PIECE))
            piece = unpacker.unconsumed_tail
    return total


def npy_header(stream: IO[bytes]) -> NpyHeader:
    """Read an npy header from the start of a stream; ValueError where it is none."""
    from numpy.lib import format as npy

    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    head = io.BytesIO(stream.read(LONGEST_HEADER))  # a header may claim to be 4 GiB long
    version = npy.read_magic(head)
    if version not in read:
        raise ValueError(f"npy version {version}")
    shape, is_fortran, dtype = read[version](head)
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return NpyHeader(shape, is_fortran, dtype, head.tell())


def check_unpacked(path: Path, headers: Mapping[str, NpyHeader]) -> None:
    """Raise a ValueError where arrays of numbers are packed closer than such numbers can be."""
    claimed, size = sum(header.num_bytes for header in headers.values()), path.stat().st_size
    if claimed > MOST_PACKED * size:
        raise ValueError(f"its {size} bytes claim to hold {claimed}")


def npz_headers(archive: zipfile.ZipFile, wanted: Container[str] | None = None) -> dict[str, NpyHeader]:
    """Return the header of each (wanted) array in an npz; ValueError where one claims more than is there."""
    headers = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if wanted is not None and name not in wanted:
            continue
        with archive.open(entry) as stream:
            header = npy_header(stream)
        if header.offset + header.num_bytes != entry.file_size and not header.dtype.hasobject:
            raise ValueError(
                f"{name} claims {header.num_bytes} bytes and has {max(0, entry.file_size - header.offset)}"
            )
        headers[name] = header
    return headers
