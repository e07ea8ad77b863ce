"""Simulate continual learning with parameter-efficient modules; this file names what is public.

Everything here is loaded when it is first asked for, so that ``import clbench`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clbench.errors import UserError
    from clbench.petl import Petl
    from clbench.progress import Progress
    from clbench.record import Record
    from clbench.report.runs import load_runs
    from clbench.run import execute, resume
    from clbench.spec import RunSpec, resolve
    from clbench.strategies import Strategy
    from clbench.streams import Places, Stream

__version__ = "0.1.0"
__all__ = [
    "Petl",
    "Places",
    "Progress",
    "Record",
    "RunSpec",
    "Strategy",
    "Stream",
    "UserError",
    "execute",
    "load_runs",
    "resolve",
    "resume",
]
_HOMES = {
    "Petl": "petl",
    "Places": "streams",
    "Progress": "progress",
    "Record": "record",
    "RunSpec": "spec",
    "Strategy": "strategies",
    "Stream": "streams",
    "UserError": "errors",
    "execute": "run",
    "load_runs": "report.runs",
    "resolve": "spec",
    "resume": "run",
}


def __getattr__(name: str) -> object:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what is public."""
    return [*__all__, "__version__"]
