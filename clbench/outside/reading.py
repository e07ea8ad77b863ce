"""Read files that clbench wrote once, and that anything may have happened to since.

Whatever is unexpected is one ``RecordError``: a folder or a pipe where a file should be, text that is none, a
tree that is nested without end, columns of another type, a disk that fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import UserError
from clbench.outside import foreign

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LONGEST_REASON = 200  # letters of what a library says


class RecordError(UserError, ValueError):
    """A folder or file that is not, or no longer, what was written there."""


@contextmanager
def told_in_one_line(what: object) -> Iterator[None]:
    """Turn whatever goes wrong in the block into one line that names what is read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what a damaged file makes a library raise is in no documentation
        raise RecordError(f"cannot read {what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line of bounded length."""
    return foreign.first_line(error)[:LONGEST_REASON]


def read_bytes(file: Path) -> bytes:
    """Return the content of a file; RecordError if there is none, or something else than a file."""
    with told_in_one_line(file):
        foreign.regular(file)
        return file.read_bytes()


def read_text(file: Path) -> str:
    """Return the content of a UTF-8 text file."""
    with told_in_one_line(file):
        return foreign.read_text(file)


def read_json(file: Path) -> Any:
    """Return the value of a JSON file; NaN and Infinity are not JSON."""
    text = read_text(file)
    with told_in_one_line(file):
        return json.loads(text, parse_constant=_refuse_constant)


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text holds; ValueError where it is none."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_columns(file: Path) -> dict[str, NDArray[np.generic]]:
    """Return the columns of a Parquet file of numbers, whose checksums are right where it has some."""
    import pyarrow as pa
    from pyarrow import parquet

    with told_in_one_line(file):
        foreign.regular(file)
        with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            fields = list(opened.schema_arrow)
            for field in fields:
                if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
                    raise RecordError(
                        f"{file} holds {field.type} in its column {field.name[:40]!r}, not numbers"
                    )
            _refuse_too_many(opened.metadata.num_rows, sum(field.type.bit_width for field in fields) // 8)
            table = opened.read()
        if any(table[name].null_count for name in table.column_names):
            raise RecordError(f"{file} has gaps")
        return {name: table[name].to_numpy() for name in table.column_names}


def read_tensors(file: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a safetensors file."""
    from safetensors.numpy import load_file

    with told_in_one_line(file):
        foreign.regular(file)
        return load_file(file)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _refuse_too_many(num_rows: int, row_bytes: int) -> None:
    import psutil

    if num_rows * row_bytes > min(foreign.MOST_TABLE, psutil.virtual_memory().available):
        raise ValueError(
            f"it says that it holds {num_rows} rows, more than any log of a run, or than fit into memory"
        )
