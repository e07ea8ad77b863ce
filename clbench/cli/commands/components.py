"""List and show what there is, begin and check what is one's own, and say what the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clbench.cli import terminal
from clbench.cli.parameters import DataDir, Option, Settings, UsageError, places_in


def list_names(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]")] = None,
    backbone: Annotated[
        str | None, Option(metavar="NAME", help="Of petl, compress: measure each on this one.")
    ] = None,
    settings: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Its options: backbone.image_size=96.")
    ] = None,
    csv: Annotated[
        Path | None, Option(metavar="FILE", help="Of what is measured: write it there, too.")
    ] = None,
) -> None:
    """List streams, strategies, backbones, petl, metrics, or all."""
    if backbone is None and not settings and csv is None:
        from clbench.cli.listing import listing

        terminal.show(listing(kind))
        return
    if kind not in ("petl", "compress"):
        raise UsageError("--backbone, --set and --csv go with: clbench list petl, clbench list compress")
    from clbench.cli.early import check_backbone

    check_backbone(backbone or "vit-micro", {})
    from clbench.cli import degrees, zoo

    measure = zoo.print_measured if kind == "petl" else degrees.print_measured
    measure(backbone or "vit-micro", settings or [], terminal.console(), csv)


def show(words: Annotated[list[str], typer.Argument(metavar="[KIND] NAME")]) -> None:
    """Show what a name is: its paper and options, or a metric's formula."""
    from clbench.cli.showing import showing

    if len(words) > 2:
        raise UsageError(f"show takes a name, or a kind and a name, not {len(words)} words")
    terminal.show(showing(words[-1], kind=words[0] if len(words) == 2 else None))


def check(
    address: Annotated[str, typer.Argument(metavar="FILE.py:NAME")],
    kind: Annotated[
        str | None,
        Option(metavar="KIND", help="strategy, stream, petl, quant or metric, if it may be several."),
    ] = None,
    settings: Settings = None,
    data_dir: DataDir = None,
) -> None:
    """Check that a strategy, stream, module, quantiser or metric keeps its contract, promise by promise."""
    places = places_in(data_dir)
    from rich.text import Text

    from clbench.cli import checking

    def told(promise: str) -> None:
        terminal.show(Text.assemble((terminal.tick(), "green"), " ", promise))

    found = checking.check(address, kind, settings or [], places, told)
    terminal.show(Text(f"{address} keeps the contract of a {found}"))


def new(
    kind: Annotated[str, typer.Argument(metavar="strategy|stream|petl|quant|compress|metric")],
    name: Annotated[str, typer.Argument(metavar="NAME")],
) -> None:
    """Write NAME.py here: a small strategy, stream, module, quantiser or metric to change into your own."""
    from clbench.cli.beginning import begin

    print(begin(kind, name))


def doctor(data_dir: DataDir = None) -> None:
    """Say what this machine has, and what is missing."""
    from clbench.cli.doctor import examine

    findings = examine(places_in(data_dir))
    terminal.show(findings)
    if findings.lacks_essentials:
        raise typer.Exit(1)
