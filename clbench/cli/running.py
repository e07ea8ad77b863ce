"""Run what one command line asks for, and print what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clbench.cli.live import watched
from clbench.cli.many import Wanted, run_many, say_failures
from clbench.cli.outcome import outcome, summary
from clbench.cli.ranks import joined_ranks, refuse_several_runs
from clbench.cli.terminal import console
from clbench.data.tasks import Places
from clbench.loggers import joined, named
from clbench.records.spec import RunSpec
from clbench.runs import line
from clbench.runs.sharing import follow


def run_and_print(specs: Sequence[RunSpec], wanted: Wanted) -> bool:
    """Run the specs; return whether all of them are finished now.

    One spec alone is run whatever lies in the folder; of several only those that are not finished there.
    """
    for name in wanted.loggers:
        named(name)  # a logger that there is not would fail every run
    refuse_several_runs(len(specs))
    if len(specs) == 1:
        _run_one(specs[0], wanted)
        return True
    records, failed = run_many(specs, wanted)
    if records:
        console().print(summary(records, wanted.out), crop=False)
    if failed:
        say_failures(failed, len(specs))
    return not failed


def _run_one(spec: RunSpec, wanted: Wanted) -> None:
    with joined_ranks() as ranks:
        if ranks and not ranks.is_first:
            follow(ranks, wanted.places)
            return
        with watched(wanted.places.data_dir) as live, joined(wanted.loggers, live) as progress:
            record = line.execute(
                spec,
                out=wanted.out,
                places=wanted.places,
                progress=progress,
                command=wanted.command,
                ranks=ranks,
            )
    console().print(outcome(record), crop=False)


def resume_and_print(folder: Path, places: Places, loggers: Sequence[str]) -> None:
    """Go on with a stopped run, and print what came of it."""
    with joined_ranks() as ranks:
        if ranks and not ranks.is_first:
            follow(ranks, places)
            return
        with watched(places.data_dir, begun=folder) as live, joined(loggers, live) as progress:
            record = line.resume(folder, places=places, progress=progress, ranks=ranks)
    console().print(outcome(record), crop=False)


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
