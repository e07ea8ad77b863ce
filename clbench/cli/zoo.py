"""Write what ``clbench list petl --backbone NAME`` prints: every module, measured on that backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from clbench import backbones, petl
from clbench.backbones.backbone import Backbone
from clbench.cli.arguments import parse_settings
from clbench.files import make_folder, write_text
from clbench.options import SpecError, build
from clbench.petl.survey import Surveyed, survey
from clbench.report.spreadsheet import csv_text
from clbench.report.units import quantity

COLUMNS: dict[str, tuple[int, Callable[[Surveyed], str]]] = {  # heading: width, and what stands below it
    "parameters": (10, lambda module: f"{module.parameters:,}"),
    "trained": (7, lambda module: quantity(module.stored_bytes, unit="B")),
    "stored": (7, lambda module: quantity(module.packed_bytes, unit="B")),
    "identity": (8, lambda module: "yes" if module.identity_at_start else "no"),
    "merges": (6, lambda module: "yes" if module.mergeable else "no"),
    "FLOPs": (8, lambda module: f"{100 * module.added_flops:+.1f} %"),
    "time": (6, lambda module: f"{module.slowdown:.2f}x"),
}
NOTE = (
    "Trained and stored: bytes of the module's tensors in training, and in a saved file, where"
    " quantised weights are packed. Identity: attaching it changes no output. FLOPs and time: added to"
    " inference, relative to the bare backbone, measured here and now in turns with it, unmerged; a module"
    " that merges costs nothing once merged."
)


def print_measured(name: str, settings: Sequence[str], console: Console, csv: Path | None = None) -> None:
    """Print a row for each module on the named backbone as soon as it is measured; write them as CSV, too.

    ``settings`` are those of ``--set backbone.OPTION=VALUE``.
    """
    backbone = _backbone(name, settings)
    names = petl.names()
    size, total = backbone.preprocessing.image_size, sum(each.numel() for each in backbone.parameters())
    heading = f"modules on {backbone.name}, {size} px, {quantity(total)} parameters without a head"
    console.print(Text(heading, style="bold"))
    longest = max(map(len, names))
    _print_line(console, "module", list(COLUMNS), longest)
    measured = []
    for each in survey(backbone, names):
        measured.append(each)
        if not each.refusal:
            _print_line(console, each.name, [show(each) for _, show in COLUMNS.values()], longest)
    console.print(Text(NOTE, style="dim"))
    _print_refused(console, measured)
    if csv:
        make_folder(csv.parent)
        write_text(csv, _csv(measured))
        console.print(Text(f"written: {csv}"), soft_wrap=True)


def _backbone(name: str, settings: Sequence[str]) -> Backbone:
    sections = parse_settings(settings)
    for section in sections:
        if section != "backbone":
            raise SpecError(f"--set {section}...: only backbone.OPTION=VALUE goes with: clbench list petl")
    return backbones.create(name, build(backbones.BackboneOptions, "backbone", sections.get("backbone", {})))


def _print_line(console: Console, name: str, cells: Sequence[str], longest: int) -> None:
    """Print a row in columns; where the screen is too narrow for it, the name above, and what fits a line."""
    widths = [width for width, _ in COLUMNS.values()]
    needed = longest + sum(widths) + 2 * len(widths)
    gap = 2 if needed <= console.width else 1
    texts = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    if needed - (2 - gap) * len(widths) <= console.width:
        lines = [(" " * gap).join([name.ljust(longest), *texts])]
    else:
        lines = [name, ""]
        for text in texts:
            if len(lines[-1]) + gap + len(text) > console.width and lines[-1]:
                lines.append("")
            lines[-1] += " " * gap + text
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _print_refused(console: Console, modules: Sequence[Surveyed]) -> None:
    refused: dict[str, list[str]] = {}
    for each in modules:
        if each.refusal:
            refused.setdefault(each.refusal, []).append(each.name)
    if refused:
        console.print(Text("\nDo not fit this backbone", style="bold"))
    for reason, names in refused.items():
        console.print(Text(f"· {', '.join(names)}: {reason}"))


def _csv(modules: Sequence[Surveyed]) -> str:
    rows = [list(asdict(each).values()) for each in modules]
    return csv_text(list(asdict(modules[0])), rows)
