"""Simulate continual learning with parameter-efficient modules; this file names what is public.

Everything here is loaded when it is first asked for, so that ``import clbench`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from clbench.version import __version__ as __version__

if TYPE_CHECKING:
    from clbench.data.tasks import Places
    from clbench.deploy.learner import Learner
    from clbench.deploy.loading import load
    from clbench.deploy.predictions import Predictions
    from clbench.errors import UserError
    from clbench.petl import Petl
    from clbench.records.progress import Progress
    from clbench.records.record import Record
    from clbench.records.resolving import resolve
    from clbench.records.spec import RunSpec
    from clbench.report.runs import load_runs
    from clbench.runs.line import execute, resume
    from clbench.strategies import Strategy
    from clbench.streams import Stream

__all__ = [
    "Learner",
    "Petl",
    "Places",
    "Predictions",
    "Progress",
    "Record",
    "RunSpec",
    "Strategy",
    "Stream",
    "UserError",
    "execute",
    "load",
    "load_runs",
    "resolve",
    "resume",
]
_HOMES = {
    "Learner": "deploy.learner",
    "Petl": "petl",
    "Places": "data.tasks",
    "Predictions": "deploy.predictions",
    "Progress": "records.progress",
    "Record": "records.record",
    "RunSpec": "records.spec",
    "Strategy": "strategies",
    "Stream": "streams",
    "UserError": "errors",
    "execute": "runs.line",
    "load": "deploy.loading",
    "load_runs": "report.runs",
    "resolve": "records.resolving",
    "resume": "runs.line",
}


def __getattr__(name: str) -> object:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what is public."""
    return [*__all__, "__version__"]
