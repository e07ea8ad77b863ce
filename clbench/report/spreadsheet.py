"""Write a comparison as CSV, in full precision: one row a run, and one row a number of a group."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from clbench.report.groups import Group


def runs_csv(groups: Sequence[Group]) -> str:
    """Return a table with one row a run: what was run, and every metric and cost; empty: not known."""
    keys = list(dict.fromkeys(key for group in groups for values in group.values for key in values))
    rows = [
        [
            *_identity(group),
            record.spec.run.seed,
            record.path.name,
            *(_number(values.get(key)) for key in keys),
        ]
        for group in groups
        for record, values in zip(group.records, group.values, strict=True)
    ]
    return _csv([*IDENTITY, "seed", "folder", *keys], rows)


def summary_csv(groups: Sequence[Group]) -> str:
    """Return a table with one row a group and number: its mean, sample standard deviation and n."""
    rows = []
    for group in groups:
        for key in group.values[0]:
            mean, std = group.statistic(key)
            rows.append([*_identity(group), key, _number(mean), _number(std), len(group.records)])
    return _csv([*IDENTITY, "name", "mean", "std", "n"], rows)


IDENTITY = ("group", "stream", "strategy", "petl", "backbone")


def _identity(group: Group) -> list[str]:
    spec = group.spec
    return [group.label, *(part.name for part in (spec.stream, spec.strategy, spec.petl, spec.backbone))]


def _number(value: float | None) -> str:
    """Write a number so that reading it gives the same one back; whole numbers without a point."""
    if value is None or math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
