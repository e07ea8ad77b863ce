"""Read and write numbers of bytes as people do, in one way each: ``2MB`` is 2,000,000."""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as ``300kB``, ``1.5 MB``, ``2MiB`` or ``800``; else ValueError."""
    found = SIZE.fullmatch(text.strip())
    units = {unit.lower(): size for unit, size in {**UNITS, **BINARY, "": 1}.items()}
    if found is None or found[2].lower() not in units:
        allowed = ", ".join([*UNITS, *BINARY])
        raise ValueError(f"a size is a number and a unit, as in 300kB or 1.5MB (units: {allowed})")
    size = Fraction(found[1]) * units[found[2].lower()]
    if size < 1:
        raise ValueError("a size is one byte at least")
    return int(size)


def size_of(number: int) -> str:
    """Write a number of bytes exactly, in the largest decimal unit that takes three decimals at most."""
    for unit, size in reversed(UNITS.items()):
        if number >= size and number * 1000 % size == 0:
            return f"{_plain(Fraction(number, size))}{unit}"
    return f"{number}B"


def canonical(text: str) -> str:
    """Return the one way to write a size, ``""`` for none; ValueError for what is no size."""
    return size_of(bytes_of(text)) if text else ""


def _plain(number: Fraction) -> str:
    return f"{float(number):.3f}".rstrip("0").rstrip(".")
