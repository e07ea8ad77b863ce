"""Hold the commands, each a function whose parameters are what is typed; ``COMMANDS`` lists them for help."""

from __future__ import annotations

from collections.abc import Callable

from clbench.cli.commands.components import check, doctor, list_names, new, show
from clbench.cli.commands.learners import export, learn, predict
from clbench.cli.commands.pretraining import pretrain
from clbench.cli.commands.runs import report, resume, run
from clbench.cli.commands.sweeps import sweep

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "resume": resume,
    "sweep": sweep,
    "report": report,
    "predict": predict,
    "learn": learn,
    "export": export,
    "pretrain": pretrain,
    "list": list_names,
    "show": show,
    "check": check,
    "new": new,
    "doctor": doctor,
}
