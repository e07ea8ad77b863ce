"""Run a strategy, go on with a run that was stopped, and compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clbench.cli import terminal
from clbench.cli.parameters import DataDir, Device, Loggers, Option, Out, Settings, places_in
from clbench.outside.visible import shell_word

NAMES = "NAME[,NAME...]"


def run(
    context: typer.Context,
    stream: Annotated[str | None, Option(metavar=NAMES, help="What is learnt [split-digits].")] = None,
    strategy: Annotated[str | None, Option(metavar=NAMES, help="How it is learnt [lae-adapter].")] = None,
    backbone: Annotated[str | None, Option(metavar=NAMES, help="What sees the images [vit-micro].")] = None,
    petl: Annotated[str | None, Option(metavar=NAMES, help="The module trained in the backbone.")] = None,
    quant: Annotated[
        str | None,
        Option(metavar="NAME[:K=V,...]", help="Learn on a backbone of few bits, as in rtn:bits=4."),
    ] = None,
    compress: Annotated[
        str | None,
        Option(metavar="NAME[:K=V,...]", help="Learn on fewer tokens, as in tome:removed=8."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        Option(metavar="NAME[:K=V,...]", help="Predict as deployed, too, as in adalog:bits=4; repeatable."),
    ] = None,
    seed: Annotated[str | None, Option(metavar="N[,N...]", help="Of all random numbers [0].")] = None,
    device: Device = None,
    precision: Annotated[str | None, Option(metavar="NAME", help="fp32 or bf16 [fp32].")] = None,
    data_dir: DataDir = None,
    out: Out = Path("runs"),
    config: Annotated[Path | None, Option(metavar="FILE.toml", help="Sections of options.")] = None,
    settings: Settings = None,
    logger: Loggers = None,
    exact: Annotated[bool, Option("--exact", help="Compute everything each time; keep no features.")] = False,
    jobs: Annotated[int, Option(min=1, metavar="N", help="Of several runs, how many at a time.")] = 1,
    again: Annotated[bool, Option("--again", help="Of several, run also what is finished there.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Print all options as TOML; run nothing.")] = False,
) -> None:
    """Run a strategy over a stream (without options: a small default).

    Several names or seeds, with commas: a run for each combination, a table and figures of all. What is
    finished in DIR already is not run again, and what was stopped goes on.
    """
    from clbench.cli.arguments import specs, typed
    from clbench.cli.early import in_words

    options = {"stream": stream, "strategy": strategy, "backbone": backbone, "petl": petl}
    options |= {"quant": quant, "compress": compress, "seed": seed}
    options |= {"device": device, "precision": precision, "exact": "true" if exact else None}
    runs = typed(config=config, options=options, settings=settings or [], variants=variant or [])
    places = places_in(data_dir)
    if not dry_run:
        if not any([*options.values(), config, settings, variant]):
            terminal.say("no options: running the embedded default; clbench run --help has others")
        terminal.say(in_words([run.named for run in runs]))
    from clbench.cli.many import Wanted
    from clbench.cli.running import print_specs, run_and_print

    chosen = specs(runs)
    if dry_run:
        print_specs(chosen)
        return
    wanted = Wanted(out, places, context.obj, tuple(logger or ()), jobs, again)
    if not run_and_print(chosen, wanted):
        raise typer.Exit(1)


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    data_dir: DataDir = None,
    logger: Loggers = None,
) -> None:
    """Go on with a run that was stopped, given its folder."""
    from clbench.cli.early import header
    from clbench.records.record import Record

    record = Record.open(folder)
    if record.is_finished:
        terminal.show(f"{folder} is finished already; see: clbench report {shell_word(str(folder))}")
        return
    terminal.say(header(record.spec))
    places = places_in(data_dir)
    from clbench.cli.running import resume_and_print

    resume_and_print(folder, places, tuple(logger or ()))


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Annotated[
        Path | None, Option(metavar="DIR", help="Where files go [report, beside the runs].")
    ] = None,
    html: Annotated[Path | None, Option(metavar="FILE", help="Write one page for a browser instead.")] = None,
    label: Annotated[
        list[str] | None, Option("--label", metavar="ID=NAME", help="Call a group NAME; repeatable.")
    ] = None,
    metrics: Annotated[
        str | None, Option(metavar="NAME[,NAME...]", help="What tables show of what was learnt.")
    ] = None,
    figures: Annotated[str, Option(metavar="KIND[,KIND...]", help="png, pdf or svg.")] = "png",
    by_task: Annotated[bool, Option("--by-task", help="Show the forgetting of each task, too.")] = False,
    recompute: Annotated[bool, Option("--recompute", help="Compute metrics anew from predictions.")] = False,
) -> None:
    """Compare runs: a table, CSV, LaTeX, figures, a page.

    ID is a group's label, or the beginning of a run's id or folder name.
    """
    from clbench.cli.outcome import comparison, wishes

    chosen = wishes(label or [], metrics, figures, by_task=by_task, recompute=recompute)
    terminal.show(comparison(folders, out, html, chosen))
