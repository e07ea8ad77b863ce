"""Say what came of pre-training: what it is worth on held-out images, what it took, and where it lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from clbench.cli.live import duration
from clbench.cli.outcome import lines
from clbench.pretrain.partial import account_of
from clbench.report.units import quantity

HELD_OUT = ("test", "validation")


def outcome(file: Path, made: Mapping[str, Any]) -> RenderableType:
    """Return what was examined as tables, and where the files are."""
    examined = made["examined"]
    parts: list[RenderableType] = []
    if "pairs" in examined:
        parts.append(_pairs(examined))
    if "test" in examined:
        parts.append(_accuracies(examined))
    if "stages" in examined:
        parts.append(_stages(examined["stages"], examined.get("cost")))
    written = lines([f"written: {file} and {account_of(file).name}, which says how it was made"])
    return Group(*parts, written)


def _pairs(examined: Mapping[str, Any]) -> Table:
    """Return how far a plug-in brings a backbone back to itself, for pairs of degrees."""
    table = _table(f"{examined['images']} test images")
    for heading in ("from", "to", "KL", "repaired", "agreement", "repaired"):
        table.add_column(heading, justify="right")
    for pair in examined["pairs"]:
        plain, repaired = pair["plain"], pair["repaired"]
        table.add_row(
            *(str(pair["from"]), str(pair["to"])),
            *(f"{each['divergence']:.3f}" for each in (plain, repaired)),
            *(f"{100 * each['agreement']:.1f} %" for each in (plain, repaired)),
        )
    return table


def _accuracies(examined: Mapping[str, Any]) -> Table:
    """Return the accuracies on each held-out part."""
    table = _table("Accuracy")
    for heading in ("on", "images"):
        table.add_column(heading, justify="left" if heading == "on" else "right")
    before = examined.get("assembled")
    for heading in ("assembled", "fine-tuned") if before else ("%",):
        table.add_column(heading, justify="right")
    for name in HELD_OUT:
        if name in examined:
            found = [*([before[name]] if before else []), examined[name]]
            shown = [f"{100 * each['accuracy']:.1f}" for each in found]
            table.add_row(f"{name} images", f"{examined[name]['images']:,}", *shown)
    return table


def _stages(stages: Mapping[str, Any], cost: Mapping[str, Any] | None) -> Table:
    """Return what each stage took, and all together: one after another, and at the same time."""
    table = _table("Cost")
    table.add_column("stage")
    for heading in ("steps", "operations", "time", "activations", "peak memory"):
        table.add_column(heading, justify="right")
    for name, spent in stages.items():
        table.add_row(
            name,
            f"{spent['steps']:,}",
            quantity(spent["flops"], unit="FLOP"),
            duration(spent["seconds"]),
            quantity(spent["activation_bytes"], unit="B"),
            quantity(spent["peak_memory_bytes"] or math.nan, unit="B"),
        )
    for name, shown in (("sequential", "one after another"), ("critical_path", "modules at once")):
        if cost is not None:
            table.add_row(
                shown, "", quantity(cost["flops"][name], unit="FLOP"), duration(cost["seconds"][name]), "", ""
            )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None)
