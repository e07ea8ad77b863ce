"""Write what ``clbench list petl --backbone NAME`` prints: every module, measured on that backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import track
from rich.table import Table
from rich.text import Text

from clbench import backbones, petl
from clbench.backbones.backbone import Backbone
from clbench.cli.arguments import parse_settings
from clbench.options import SpecError, build
from clbench.petl.survey import Surveyed, survey
from clbench.report.units import quantity

COLUMNS = ("parameters", "as trained", "as stored", "identity\nat start", "merges", "added\nFLOPs", "time")
NOTE = (
    "As trained and as stored: bytes of the module's tensors in training, and in a saved file, where"
    " quantised weights are packed. Added FLOPs and time: of inference, relative to the bare backbone,"
    " measured here and now in turns with it, unmerged; a module that merges costs nothing once merged."
)


def measured(name: str, settings: Sequence[str]) -> RenderableType:
    """Return the table for the named backbone; ``settings`` are those of ``--set backbone.OPTION=VALUE``."""
    sections = parse_settings(settings)
    for section in sections:
        if section != "backbone":
            raise SpecError(f"--set {section}...: only backbone.OPTION=VALUE goes with: clbench list petl")
    options = build(backbones.BackboneOptions, "backbone", sections.get("backbone", {}))
    backbone = backbones.create(name, options)
    names = petl.names()
    bar = track(
        survey(backbone, names),
        "measuring",
        total=len(names),
        console=Console(stderr=True),
        transient=True,
        disable=not Console(stderr=True).is_terminal,
    )
    return _report(backbone, list(bar))


def _report(backbone: Backbone, modules: Sequence[Surveyed]) -> RenderableType:
    size, total = backbone.preprocessing.image_size, sum(each.numel() for each in backbone.parameters())
    heading = f"modules on {backbone.name}, {size} px, {quantity(total)} parameters without a head"
    fit = _table(each for each in modules if not each.refusal)
    unfit: dict[str, list[str]] = {}
    for each in modules:
        if each.refusal:
            unfit.setdefault(each.refusal, []).append(each.name)
    told = [Text("\nDo not fit this backbone", style="bold")] if unfit else []
    told += [Text(f"· {', '.join(names)}: {reason}") for reason, names in unfit.items()]
    return Group(Text(heading, style="bold"), fit, Text(NOTE, style="dim"), *told)


def _table(modules: Iterable[Surveyed]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("module", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for each in modules:
        table.add_row(
            each.name,
            f"{each.parameters:,}",
            quantity(each.stored_bytes, unit="B"),
            quantity(each.packed_bytes, unit="B"),
            "yes" if each.identity_at_start else "no",
            "yes" if each.mergeable else "no",
            f"{100 * each.added_flops:+.1f} %",
            f"{each.slowdown:.2f}x",
        )
    return table
