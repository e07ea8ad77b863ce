"""Know the names of timm's networks without importing timm, which takes seconds."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

REGISTERED = re.compile(r"^@register_model\s*?\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


@lru_cache(maxsize=1)
def timm_names() -> frozenset[str]:
    """Return the names of the networks that the files of the installed timm register; empty without timm."""
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return frozenset(name for file in files for name in REGISTERED.findall(file.read_text(encoding="utf-8")))
