"""Write what ``clbench list petl --backbone NAME`` prints: every module, measured on that backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from clbench import petl
from clbench.cli.measured import Table, chosen_backbone
from clbench.petl.survey import Surveyed, survey
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
    backbone = chosen_backbone(name, settings, "petl")
    names = petl.names()
    size, total = backbone.preprocessing.image_size, sum(each.numel() for each in backbone.parameters())
    heading = f"modules on {backbone.name}, {size} px, {quantity(total)} parameters without a head"
    table = Table(heading, "module", max(map(len, names)), COLUMNS, NOTE)
    table.print(survey(backbone, names), console, csv)
