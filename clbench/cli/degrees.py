"""Write what ``clbench list compress --backbone NAME`` prints: every degree, measured on that backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from clbench import compress
from clbench.cli.measured import Table, chosen_backbone
from clbench.compress.survey import Surveyed, survey, texts
from clbench.report.units import quantity

COLUMNS: dict[str, tuple[int, Callable[[Surveyed], str]]] = {  # heading: width, and what stands below it
    "tokens": (6, lambda degree: f"{degree.tokens:,}"),
    "MACs": (7, lambda degree: quantity(degree.macs)),
    "of plain": (8, lambda degree: f"{100 * degree.macs_share:.1f} %"),
    "speed-up": (8, lambda degree: f"{degree.speedup:.2f}x"),
}
NOTE = (
    "Tokens: behind the last block, the class token included. MACs: multiply-adds of an image, and their"
    " share of the plain backbone's. Speed-up: of inference, measured here and now in turns with the plain"
    " backbone; what removes nothing shows how far the clock can be trusted."
)


def print_measured(name: str, settings: Sequence[str], console: Console, csv: Path | None = None) -> None:
    """Print a row for each degree on the named backbone as soon as it is measured; write them as CSV, too.

    ``settings`` are those of ``--set backbone.OPTION=VALUE``.
    """
    backbone = chosen_backbone(name, settings, "compress")
    names, depth = compress.names(), len(backbone.blocks)
    typed = [text for each in names for text in texts(each, compress.get(each)().degrees(depth))]
    heading = f"token compressors on {backbone.name}, {backbone.preprocessing.image_size} px"
    table = Table(heading, "compressor", max(map(len, typed)), COLUMNS, NOTE)
    table.print(survey(backbone, names), console, csv)
