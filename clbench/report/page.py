"""Lay out a comparison as one HTML page that needs no network: tables, tests, pictures, commands, hashes.

Records come from anywhere: the template escapes every value, and the page's policy lets nothing run or load
but its own style, script and pictures.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files

from clbench.outside.visible import visible
from clbench.records.record import safe_name
from clbench.report.columns import QUALITY, Column
from clbench.report.comparing import PairedTest, interval, paired_tests
from clbench.report.forgetting import forgetting_cells, forgetting_headings
from clbench.report.gallery import Album, Shown, gallery
from clbench.report.groups import Group, partition, setting
from clbench.report.page_table import definitions, headings, rows
from clbench.report.provenance import Provenance, provenance
from clbench.report.units import percent
from clbench.version import __version__

ACCURACY = QUALITY[0].key  # what groups are ordered and tested by
NUM_FIRST = 10  # paired tests shown at once; the others unfold


@dataclass(frozen=True)
class StreamPart:
    """What a page shows of the groups that met one stream."""

    name: str
    groups: list[Group]  # the most accurate first
    tests: list[PairedTest]  # the least probable by chance first
    pictures: list[Shown]
    albums: list[Album]
    left_out: list[str]

    @property
    def tasks(self) -> list[str]:
        """The tasks of which forgetting is shown."""
        return forgetting_headings(self.groups)

    @property
    def forgetting(self) -> list[tuple[str, list[str]]]:
        """Each group's label, and forgetting of each of those tasks."""
        cells = [(group.label, forgetting_cells(group)) for group in self.groups]
        return [(label, [*own, *[""] * (len(self.tasks) - len(own))]) for label, own in cells]


@dataclass(frozen=True)
class GroupPart:
    """What a page says about where a group's numbers come from."""

    label: str
    counted: str
    runs: list[Provenance]


def page_html(
    groups: Sequence[Group],
    notes: Sequence[str],
    warnings: Sequence[str],
    written: date | None = None,
    quality: Sequence[Column] = QUALITY,
) -> str:
    """Return the page; ``written`` is the day in its footer (default: today), ``quality`` what is shown."""
    import jinja2

    apart = partition(groups, "stream")
    streams = [_stream_part(name, members) for name, members in zip(_names(apart), apart, strict=True)]
    style, script = _asset("page.css"), _asset("page.js")  # ours, and all that is not escaped
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    return environment.from_string(_asset("page.html.j2")).render(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=_title(groups),
        summary=_summary(groups, streams),
        warnings=warnings,
        notes=notes,
        headings=headings(streams, quality),
        rows=rows(streams, quality),
        definitions=definitions(streams, quality),
        streams=streams,
        num_first=NUM_FIRST,
        percent=percent,
        groups=[_group_part(group) for group in groups],
        version=__version__,
        date=(written or date.today()).isoformat(),
    )


def _printable(value: object) -> object:
    """Write what stands in a record's texts so that it shows; our own style and script are no such text."""
    return visible(value) if type(value) is str else value


def _asset(name: str) -> str:
    return files("clbench.report").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return a content security policy: nothing but this style, this script and pictures in the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )


def _names(streams: Sequence[Sequence[Group]]) -> list[str]:
    """Name each stream; of those with one name but other splits or class orders also the hash."""
    names = [safe_name(members[0].spec.stream.name) for members in streams]
    hashes = [members[0].hashes("stream")[members[0].seeds[0]] for members in streams]
    return [
        name if names.count(name) == 1 else f"{name} {digest[:8]}"
        for name, digest in zip(names, hashes, strict=True)
    ]


def _stream_part(name: str, members: Sequence[Group]) -> StreamPart:
    ordered = sorted(members, key=lambda group: _largest_first(group.statistic(ACCURACY)[0]))
    known = [test for test in paired_tests(ordered, ACCURACY) if not math.isnan(test.p)]
    tests = sorted(known, key=lambda test: test.p)
    return StreamPart(name, ordered, tests, *gallery(ordered))


def _largest_first(value: float) -> tuple[bool, float]:
    """Return a key that puts large values first and NaN last."""
    return math.isnan(value), -value


def _title(groups: Sequence[Group]) -> str:
    names = list(dict.fromkeys(safe_name(group.spec.stream.name) for group in groups))
    return ", ".join(names) if len(names) <= 3 else _count(len(names), "stream")


def _summary(groups: Sequence[Group], streams: Sequence[StreamPart]) -> list[str]:
    """Say in words what is compared, and who is best on each stream."""
    num_runs = sum(len(group.records) for group in groups)
    seeds = {seed for group in groups for seed in group.seeds}
    backbones = sorted({safe_name(group.spec.backbone.name) for group in groups})
    counts = [(num_runs, "run"), (len(groups), "group"), (len(seeds), "seed"), (len(streams), "stream")]
    counted = ", ".join(_count(number, noun) for number, noun in counts)
    shared = setting(groups)[2:] if len(streams) == len(backbones) == 1 else []
    lines = [f"{counted}; {', '.join([*backbones, *shared])}. The runs of a group differ in the seed alone."]
    for part in streams:
        known = [group for group in part.groups if not math.isnan(group.statistic(ACCURACY)[0])]
        followed = [
            group for group in known if not math.isnan(group.statistic("average-incremental-accuracy")[0])
        ]
        if known:
            lines.append(f"Most accurate after the last task of {part.name}: {_named(known[0])}.")
        if followed and followed[0] is not known[0]:
            lines[-1] += f" Of those tested after every task: {_named(followed[0])}."
    return lines


def _named(group: Group) -> str:
    bounds = interval(group.numbers(ACCURACY))
    if math.isnan(bounds.low):
        return f"{group.label}, {percent(bounds.mean)} % (one seed, so no interval)"
    low, high = percent(bounds.low), percent(bounds.high)
    return f"{group.label}, {percent(bounds.mean)} % (95 % interval {low} to {high}, n = {bounds.n})"


def _group_part(group: Group) -> GroupPart:
    seeds = f"seed{'s' if len(group.seeds) > 1 else ''} {', '.join(map(str, group.seeds))}"
    counted = f"{_count(len(group.records), 'run')}, {seeds}"
    return GroupPart(group.label, counted, [provenance(record) for record in group.records])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
