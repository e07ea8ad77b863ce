"""Run what one command line asks for, and print what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from clbench.cli.live import watched
from clbench.cli.many import Wanted, run_many, say_failures
from clbench.cli.outcome import outcome, summary
from clbench.cli.terminal import console
from clbench.loggers import joined, named
from clbench.records.spec import RunSpec
from clbench.runs import line


def run_and_print(specs: Sequence[RunSpec], wanted: Wanted) -> bool:
    """Run the specs; return whether all of them are finished now.

    One spec alone is run whatever lies in the folder; of several only those that are not finished there.
    """
    for name in wanted.loggers:
        named(name)  # a logger that there is not would fail every run
    if len(specs) == 1:
        with watched(wanted.places.data_dir) as live, joined(wanted.loggers, live) as progress:
            record = line.execute(
                specs[0], out=wanted.out, places=wanted.places, progress=progress, command=wanted.command
            )
        console().print(outcome(record), crop=False)
        return True
    records, failed = run_many(specs, wanted)
    if records:
        console().print(summary(records, wanted.out), crop=False)
    if failed:
        say_failures(failed, len(specs))
    return not failed


def print_specs(specs: Sequence[RunSpec]) -> None:
    """Print the id of each run, and all options of each that differs in more than the seed, as TOML."""
    for spec in specs:
        print(f"# id {spec.id}, seed {spec.run.seed}")
    told: set[str] = set()
    for spec in specs:
        toml = spec.to_toml()
        options = toml.replace(f"\nseed = {spec.run.seed}\n", "\n")
        if options not in told:
            print(("\n" if told else "") + toml, end="")
            told.add(options)
