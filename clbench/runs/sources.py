"""Tell whether a strategy is the one that a record was made by, from the files that it is read from."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

from clbench.cards import source_files
from clbench.records.former_sources import is_former
from clbench.strategies import Strategy


def source_digest(strategy: type[Strategy]) -> str:
    """Return the SHA-256 of the files that a strategy is read from."""
    files = source_files(Path(inspect.getfile(strategy)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_same_source(digest: str, strategy: type[Strategy]) -> bool:
    """Tell whether a record with this hash was made by the strategy as it is, or as good as is."""
    return digest == source_digest(strategy) or is_former(digest, strategy.__module__)
