"""Search options of a run: many trials, scored on validation images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clbench.cli import terminal
from clbench.cli.parameters import DataDir, Option, places_in


def sweep(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.toml")],
    out: Annotated[Path | None, Option(metavar="DIR", help="Where trials go [beside FILE].")] = None,
    jobs: Annotated[
        int | None, Option(min=1, metavar="N", help="Runs at a time [as processors allow].")
    ] = None,
    address: Annotated[
        str | None, Option(metavar="HOST:PORT", help="A Ray cluster; also auto, ray://..., local-ray.")
    ] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Check FILE and print a trial; run nothing.")] = False,
) -> None:
    """Search options by trials that are scored on validation images.

    FILE has [sweep], [space] and sections as in --config. Stopped in any way, the same command goes on. The
    best options are written, with the command that runs them on the test images.
    """
    from clbench.cli.sweeping import Wanted, read, sweep_and_print

    found = read(file)
    folder = out if out is not None else file.with_suffix("")
    places = places_in(data_dir)
    if dry_run:
        terminal.show(found.spec(found.search.next([]) or {}, found.seeds[0]).to_toml().rstrip("\n"))
        return
    if not sweep_and_print(found, Wanted(folder, places, context.obj, jobs, address)):
        raise typer.Exit(1)
