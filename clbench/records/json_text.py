"""Write values as JSON that reads well: keys sorted, numpy values as plain ones, NaN as null."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def to_json(value: Any) -> str:
    """Return a value as JSON that reads well: a key or a row of numbers on each line."""
    return _indented(plain(value), "")


def json_file(value: Any) -> bytes:
    """Return the bytes of a file that holds a value."""
    return (to_json(value) + "\n").encode()


def plain(value: Any) -> Any:
    """Return the value in the types that JSON has; numpy's scalars and arrays answer to ``tolist``."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if value.dtype.kind == "f":  # a wide matrix at once
        import numpy as np

        return np.where(np.isfinite(value), value, np.array(None)).tolist()
    return plain(value.tolist())


def _indented(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{json.dumps(key)}: {_indented(value[key], deeper)}" for key in sorted(value)]
        opening, closing = "{}"
    elif isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value):
        rows = [_indented(each, deeper) for each in value]
        opening, closing = "[]"
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return f"{opening}\n" + ",\n".join(deeper + row for row in rows) + f"\n{indent}{closing}"
