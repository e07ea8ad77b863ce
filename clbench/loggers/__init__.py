"""Tell other programs of a run while it goes on: TensorBoard, Weights & Biases, one a file.

Each is an extra of its own and writes into the record's folder, whose events.jsonl is written in any case.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from clbench.errors import UserError
from clbench.loggers.logger import Logger
from clbench.loggers.together import Together
from clbench.records.progress import Progress
from clbench.registry import UnknownNameError, did_you_mean

SINKS = {"tensorboard": "TensorBoard", "wandb": "WeightsAndBiases"}  # by file, package and extra: the class


class MissingPackageError(UserError, ImportError):
    """A logger whose package is not installed."""


@contextmanager
def joined(names: Sequence[str], first: Progress) -> Iterator[Progress]:
    """Pass what ``first`` hears on to the loggers of these names, and close them, however the block ends."""
    loggers = [named(name) for name in dict.fromkeys(names)]
    with ExitStack() as stack:
        yield Together([first, *(stack.enter_context(each) for each in loggers)])


def named(name: str) -> Logger:
    """Return a new logger for one run; UnknownNameError, or MissingPackageError with what to install."""
    if name not in SINKS:
        near = did_you_mean(name, SINKS)
        raise UnknownNameError(f"no {name!r} among the loggers{near} (allowed: {', '.join(SINKS)})")
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # no origin: a folder of that name, such as W&B's own
        command = f'pip install "clbench[{name}]"'
        raise MissingPackageError(f"--logger {name} needs a package that is not installed: {command}")
    module = importlib.import_module(f"{__name__}.{name}")
    return Logger(getattr(module, SINKS[name])())


__all__ = ["SINKS", "Logger", "MissingPackageError", "Together", "joined", "named"]
