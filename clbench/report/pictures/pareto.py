"""Draw the accuracy of groups over what they cost, and the front of those that nothing beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from clbench.report.columns import COST, DEPLOYED, Column
from clbench.report.comparing import pareto_front
from clbench.report.groups import Group
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.scatter import Point, scatter
from clbench.report.pictures.style import left_out, setting_name, shortened, spread_name
from clbench.report.units import quantity

UNITS = {  # of a cost, by a word in its key
    "bytes": "B",
    "memory": "B",
    "flops": "FLOP",
    "macs": "MAC",
    "images_per_second": "images/s",
    "seconds": "s",
    "energy": "J",
}


def pareto(groups: Sequence[Group], cost: str = "flops.training") -> Picture:
    """Draw each group's last accuracy over a cost, means and standard deviations over the seeds."""
    column = cost_column(cost)
    points = [
        Point(shortened(group.label), mean, 100 * accuracy, std, 100 * accuracy_std)
        for group in groups
        for (mean, std), (accuracy, accuracy_std) in [(group.statistic(cost), group.statistic("accuracy"))]
        if not math.isnan(mean) and not math.isnan(accuracy)
    ]
    if not points:
        raise NoPictureError(f"no run knows both its accuracy and its cost {cost!r}")
    below = f"{spread_name(groups)}; line: the most accurate for the cost"
    return scatter(
        points,
        label=f"{column.title} ({', '.join(filter(None, (unit_of(cost), 'logarithmic')))})",
        tick=lambda value: column.show(value, math.nan),
        title=setting_name(groups),
        below=below + left_out(groups, len(points)),
        front={shortened(label) for label in pareto_front(groups, cost)},
    )


def pareto_deployed(groups: Sequence[Group]) -> Picture:
    """Draw the last accuracy over the bytes to deploy, where some of the groups compute with few bits."""
    if not any(group.spec.deployed or group.spec.quant for group in groups):
        raise NoPictureError("no run has a variant, or computes with few bits")
    return pareto(groups, "deployed_bytes")


def cost_column(key: str) -> Column:
    """Return what a cost is called and how it is written, whether a table has it or not."""
    for column in (*COST, *DEPLOYED):
        if column.key == key:
            return column
    words = key.replace(".", " ").replace("_", " ")
    return Column(key, words, partial(quantity, unit=unit_of(key)))


def unit_of(key: str) -> str:
    """Return the unit of a cost; empty: it has none."""
    return next((unit for word, unit in UNITS.items() if word in key), "")
