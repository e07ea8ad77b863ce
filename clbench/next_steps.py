"""Suggest what to type after a run."""

from __future__ import annotations

import shlex

from clbench import strategies
from clbench.record import Record
from clbench.spec import option_types

OTHERS = ("naive", "lae-adapter")  # each is a comparison that tells something about any method


def next_steps(record: Record) -> str:
    """Return where the record lies, and three commands with what each is for."""
    folder = shlex.quote(str(record.path))
    commands = {
        f"clbench report {folder}": "figures and tables as files; name more runs to compare them",
        another_run(record): "the same with another strategy",
        f"clbench show {record.spec.strategy.name}": "this strategy's paper and options",
    }
    lines = [f"  {command}\n      {purpose}" for command, purpose in commands.items()]
    return "\n".join([f"record: {record.path}", "next:", *lines])


def another_run(record: Record) -> str:
    """Return the command of a run with another strategy, and without the options that this one lacks."""
    here = record.spec.strategy.name
    other = next(name for name in OTHERS if strategies.split(name)[0] != here)
    allowed = option_types(strategies.get(other))
    words = iter(shlex.split((record.path / "command.txt").read_text(encoding="utf-8")))
    kept = []
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--strategy", "--set"):
            kept.append(word)
            continue
        value = value if equals else next(words)
        section, _, name = value.partition("=")[0].partition(".")
        if option == "--set" and (section != "strategy" or name in allowed):
            kept += [option, value]
    return shlex.join([*kept, "--strategy", other])
