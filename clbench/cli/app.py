"""Turn a command line into a spec, a run and a report: the only place that talks to the terminal."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clbench.cli import terminal
from clbench.errors import UserError
from clbench.outside.visible import shell_word
from clbench.version import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clbench.data.tasks import Places

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What is wrong with a command line as such; BadParameter is the one such error that typer exports.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
DEBUG = "--debug"
# What a file system may refuse through no fault of the program.
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.EBADF),
)
LONG_WORD = r"\S{400,}"  # of an error; paths are mostly shorter
NAMES = "NAME[,NAME...]"
Option = typer.Option
DataDir = Annotated[Path | None, Option(metavar="DIR", envvar="CLBENCH_DATA", help="Where data sets lie.")]
Loggers = Annotated[
    list[str] | None, Option("--logger", metavar="NAME", help="Tell tensorboard or wandb, too; repeatable.")
]
Folder = Annotated[Path | None, Option(metavar="DIR", help="Where files go [report, beside the runs].")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; what the user can mend is told in one line."""
    # Threads that wait for each other spin less: as fast on a quiet machine, a third faster on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    terminal.prepare()
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = DEBUG in words  # in any place, also behind a command: it is typed when something has failed
    words = [word for word in words if word != DEBUG]
    if any("\0" in word for word in words):
        return _failed("a word of the command line holds a NUL byte")
    try:
        status = app(words, prog_name="clbench", standalone_mode=False, obj=_command(words))
        sys.stdout.flush()
    except UserError as error:
        if is_debug:
            traceback.print_exc()
        return _failed(str(error))
    except UsageError as error:
        asked = error.ctx.command_path if error.ctx else "clbench"
        return _failed(f"{error.format_message()} (see: {asked} --help)")
    except typer.Abort:  # Ctrl-C
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of a pipe has gone
        terminal.forget_lost_output()
        return 1
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        terminal.forget_lost_output()
        return _failed(f"{error.filename or 'while writing'}: {error.strerror}")
    return status or 0


@app.callback(invoke_without_command=True)
def clbench(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, Option(DEBUG, help="Of any command: print the traceback of an error.")] = False,
) -> None:
    """Continual learning with parameter-efficient modules: run, compare, and trust the numbers."""
    if version:
        print(f"clbench {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    context: typer.Context,
    stream: Annotated[str | None, Option(metavar=NAMES, help="What is learnt [split-digits].")] = None,
    strategy: Annotated[str | None, Option(metavar=NAMES, help="How it is learnt [lae-adapter].")] = None,
    backbone: Annotated[str | None, Option(metavar=NAMES, help="What sees the images [vit-micro].")] = None,
    petl: Annotated[str | None, Option(metavar=NAMES, help="The module trained in the backbone.")] = None,
    seed: Annotated[str | None, Option(metavar="N[,N...]", help="Of all random numbers [0].")] = None,
    device: Annotated[str | None, Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps [auto].")] = None,
    precision: Annotated[str | None, Option(metavar="NAME", help="fp32 or bf16 [fp32].")] = None,
    data_dir: DataDir = None,
    out: Annotated[Path, Option(metavar="DIR", help="Where records go.")] = Path("runs"),
    config: Annotated[Path | None, Option(metavar="FILE.toml", help="Sections of options.")] = None,
    settings: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="An option, as in strategy.epochs=3.")
    ] = None,
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

    options = {"stream": stream, "strategy": strategy, "backbone": backbone, "petl": petl, "seed": seed}
    options |= {"device": device, "precision": precision, "exact": "true" if exact else None}
    runs = typed(config=config, options=options, settings=settings or [])
    places = _places(data_dir)
    if not dry_run:
        if not any([*options.values(), config, settings]):
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


@app.command()
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
        _print(f"{folder} is finished already; see: clbench report {shell_word(str(folder))}")
        return
    terminal.say(header(record.spec))
    places = _places(data_dir)
    from clbench.cli.live import watched
    from clbench.cli.outcome import outcome
    from clbench.loggers import joined
    from clbench.runs import line as running

    with watched(data_dir) as live, joined(logger or [], live) as progress:
        record = running.resume(folder, places=places, progress=progress)
    _print(outcome(record))


@app.command("list")
def list_names(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]")] = None,
    backbone: Annotated[str | None, Option(metavar="NAME", help="Of petl: measure each on this one.")] = None,
    settings: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Its options: backbone.image_size=96.")
    ] = None,
    csv: Annotated[
        Path | None, Option(metavar="FILE", help="Of petl, measured: write it there, too.")
    ] = None,
) -> None:
    """List streams, strategies, backbones, petl, metrics, or all."""
    if backbone is None and not settings and csv is None:
        from clbench.cli.listing import listing

        _print(listing(kind))
        return
    if kind != "petl":
        raise UsageError("--backbone, --set and --csv go with: clbench list petl")
    from clbench.cli.early import check_backbone

    check_backbone(backbone or "vit-micro", {})
    from clbench.cli.zoo import print_measured

    print_measured(backbone or "vit-micro", settings or [], terminal.console(), csv)


@app.command()
def show(words: Annotated[list[str], typer.Argument(metavar="[KIND] NAME")]) -> None:
    """Show what a name is: its paper and options, or a metric's formula."""
    from clbench.cli.showing import showing

    if len(words) > 2:
        raise UsageError(f"show takes a name, or a kind and a name, not {len(words)} words")
    _print(showing(words[-1], kind=words[0] if len(words) == 2 else None))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Folder = None,
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
    _print(comparison(folders, out, html, chosen))


@app.command()
def check(
    address: Annotated[str, typer.Argument(metavar="FILE.py:NAME")],
    kind: Annotated[
        str | None, Option(metavar="KIND", help="strategy, stream, petl or metric, where it may be several.")
    ] = None,
    settings: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="An option, as in strategy.epochs=3.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Check that a strategy, stream, module or metric keeps its contract, promise by promise."""
    places = _places(data_dir)
    from rich.text import Text

    from clbench.cli import checking

    def told(promise: str) -> None:
        _print(Text.assemble((terminal.tick(), "green"), " ", promise))

    found = checking.check(address, kind, settings or [], places, told)
    _print(Text(f"{address} keeps the contract of a {found}"))


@app.command()
def new(
    kind: Annotated[str, typer.Argument(metavar="strategy|stream|petl|metric")],
    name: Annotated[str, typer.Argument(metavar="NAME")],
) -> None:
    """Write NAME.py here: a small strategy, stream, module or metric to change into your own."""
    from clbench.cli.beginning import begin

    print(begin(kind, name))


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Say what this machine has, and what is missing."""
    from clbench.cli.doctor import examine

    findings = examine(_places(data_dir))
    _print(findings)
    if findings.lacks_essentials:
        raise typer.Exit(1)


def _command(words: Sequence[str]) -> str:
    return " ".join(map(shell_word, ["clbench", *words]))


def _places(data_dir: Path | None) -> Places:
    from clbench.data.tasks import DataNotFoundError, Places

    if data_dir is not None and not data_dir.is_dir():
        raise DataNotFoundError(f"--data-dir (or CLBENCH_DATA) {data_dir}: there is no such folder")
    return Places(data_dir)


def _print(what: RenderableType) -> None:
    terminal.console().print(what, crop=False, soft_wrap=isinstance(what, str), markup=False)


def _failed(message: str) -> int:
    short = re.sub(LONG_WORD, lambda word: f"{word[0][:200]}...{word[0][-50:]}", message)
    terminal.say(f"error: {short}")
    return 2
