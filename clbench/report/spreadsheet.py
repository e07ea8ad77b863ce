"""Write a comparison as CSV, in full precision: one row a run, and one row a number of a group."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields

from clbench.outside.visible import visible
from clbench.report.columns import QUALITY, Column, costs_shown
from clbench.report.comparing import PairedTest, interval, mean_ranks, paired_tests, pareto_front
from clbench.report.forgetting import TaskForgetting, task_forgetting
from clbench.report.groups import Group, partition

FORMULA = ("=", "+", "-", "@")  # what a cell begins with that a spreadsheet computes


def runs_csv(groups: Sequence[Group]) -> str:
    """Return a table with one row a run: what was run, and every metric and cost; empty: not known."""
    header, rows = _runs(groups)
    numbers = [[_number(cell) if isinstance(cell, float) else cell for cell in row] for row in rows]
    return csv_text(header, numbers)


def runs_parquet(groups: Sequence[Group]) -> bytes:
    """Return the same table as a Parquet file; null: not known."""
    import pyarrow as pa
    from pyarrow import parquet

    header, rows = _runs(groups)
    columns = {
        name: pa.array(list(column), from_pandas=True)
        for name, column in zip(header, zip(*rows, strict=True), strict=True)
    }
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer, compression="zstd")
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def tests_csv(groups: Sequence[Group]) -> str:
    """Return the paired tests of every pair of groups, in accuracy and in forgetting."""
    tests = [test for key in ("accuracy", "forgetting") for test in paired_tests(groups, key)]
    rows = [
        [_number(cell) if isinstance(cell, float) else cell for cell in vars(test).values()] for test in tests
    ]
    return csv_text([field.name for field in fields(PairedTest)], rows)


def ranks_csv(groups: Sequence[Group], quality: Sequence[Column] = QUALITY) -> str:
    """Return each group's mean rank among those of its stream in what the tables show, 1 the best."""
    shown = costs_shown(values for group in groups for values in group.values)
    columns = (*quality, *shown)  # of a cost, less is better
    ranks = [
        mean_ranks(groups, column.key, higher_is_better=bool(column.higher_is_better)) for column in columns
    ]
    rows = [[*_identity(group), *(_number(rank[group.label]) for rank in ranks)] for group in groups]
    return csv_text([*IDENTITY, *(column.key for column in columns)], rows)


def fronts_csv(groups: Sequence[Group]) -> str:
    """Return, for each cost and each stream, who is on the Pareto front of accuracy."""
    rows, streams = [], partition(groups, "stream")
    for column in costs_shown(values for group in groups for values in group.values):
        for rivals in streams:
            front = pareto_front(rivals, column.key)
            for group in rivals:
                numbers = (group.statistic(key)[0] for key in (column.key, QUALITY[0].key))
                rows.append([*_identity(group), column.key, *map(_number, numbers), group.label in front])
    return csv_text([*IDENTITY, "name", "cost", QUALITY[0].key, "on_front"], rows)


def forgetting_csv(groups: Sequence[Group]) -> str:
    """Return a table with one row a group and task: accuracies, and how much of the best was lost."""
    rows = [
        [*_identity(group), each.task + 1, *map(_number, list(vars(each).values())[1:]), len(group.records)]
        for group in groups
        for each in task_forgetting(group)
    ]
    return csv_text([*IDENTITY, *(field.name for field in fields(TaskForgetting)), "n"], rows)


def _runs(groups: Sequence[Group]) -> tuple[list[str], list[list[object]]]:
    keys = list(dict.fromkeys(key for group in groups for key in group.names))
    rows = [
        [
            *_identity(group),
            record.spec.run.seed,
            record.path.name,
            *(values.get(key, math.nan) for key in keys),
        ]
        for group in groups
        for record, values in zip(group.records, group.values, strict=True)
    ]
    return [*IDENTITY, "seed", "folder", *keys], rows


def summary_csv(groups: Sequence[Group]) -> str:
    """Return a table with one row a group and number: mean, sample standard deviation, 95 % interval, n."""
    rows = []
    for group in groups:
        for key in group.names:
            found = interval(group.numbers(key))
            numbers = (found.mean, found.std, found.low, found.high)
            rows.append([*_identity(group), key, *map(_number, numbers), found.n])
    return csv_text([*IDENTITY, "name", "mean", "std", "low", "high", "n"], rows)


IDENTITY = ("group", "stream", "strategy", "petl", "backbone", "quant", "compress", "variant")


def _identity(group: Group) -> list[str]:
    """Return what a row is of; quant, compress and variant are empty where there is none."""
    spec = group.spec
    parts = (spec.stream, spec.strategy, spec.petl, spec.backbone, spec.quant, spec.compress, spec.deployed)
    return [group.label, *("" if part is None else part.name for part in parts)]


def _number(value: float | None) -> str:
    """Write a number so that reading it gives the same one back; whole numbers without a point."""
    if value is None or math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return CSV that a spreadsheet computes nothing of, and whose texts do nothing in a terminal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_plain, header))
    writer.writerows([_plain(cell) for cell in row] for row in rows)
    return text.getvalue()


def _plain(cell: object) -> object:
    """Write a text that begins as a formula with an apostrophe before it, as spreadsheets take texts."""
    if not isinstance(cell, str):
        return cell
    shown = visible(cell)
    return f"'{shown}" if shown.startswith(FORMULA) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
