"""Group runs that differ in nothing but the seed, and say what sets one group apart from another."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate import Metric, Results, compute
from clbench.evaluate.former_names import current_name
from clbench.outside.visible import visible
from clbench.records.record import Record, safe_name, short_name
from clbench.records.spec import RunSpec
from clbench.report.columns import values_of
from clbench.report.references import compared, joint_runs

Matrix = NDArray[np.float64]
MOST_OPTIONS = 3  # that stand in a label because they differ; of more, as few as tell its group apart


@dataclass(frozen=True)
class Group:
    """Runs with one spec but for the seed, one run a seed, in the order of the seeds."""

    label: str  # tells it from the other groups of the comparison
    records: list[Record]
    joint: Mapping[int, Record] = field(default_factory=dict)  # by seed: joint training on the same stream
    recompute: bool = False  # whether metrics are computed anew from the predictions, not read
    asked: tuple[Metric, ...] = ()  # metrics that are computed where a record does not hold them

    @property
    def spec(self) -> RunSpec:
        """The spec of the first run."""
        return self.records[0].spec

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return [record.spec.run.seed for record in self.records]

    @property
    def file_stem(self) -> str:
        """A name for files about this group, which no other group shares."""
        identity = f"{group_key(self.spec)} {self.records[0].version}"
        return f"{short_name(self.spec)}_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    @cached_property
    def values(self) -> list[dict[str, float]]:
        """Every metric and cost of each run, also those metrics that compare with joint training."""
        values = [values_of(record) for record in self.records]
        if self.recompute:
            values = [{**old, **compute(new)} for old, new in zip(values, self.results, strict=True)]
        for own, record in zip(values, self.records, strict=True):
            own |= computed(record, [each for each in self.asked if each.name not in own])
        joint = [self.joint.get(seed) for seed in self.seeds]
        return [
            {**own, **compared(record, other)}
            for own, record, other in zip(values, self.records, joint, strict=True)
        ]

    @property
    def names(self) -> list[str]:
        """The names of what any of the runs knows."""
        return list(dict.fromkeys(name for values in self.values for name in values))

    @cached_property
    def results(self) -> list[Results]:
        """What the metrics of each run are functions of, read from its predictions."""
        return [record.results() for record in self.records]

    @cached_property
    def accuracy(self) -> Matrix:
        """The accuracy matrices of the runs: (runs, T, T), NaN where nothing is known.

        T is the most tasks that any of them has; the others know nothing of the last ones.
        """
        num_tasks = max(num for num, _ in self.extents)
        whole = np.full((len(self.records), num_tasks, num_tasks), np.nan)
        for run, matrix in enumerate(self._matrices):
            num = len(matrix["accuracy"])
            whole[run, :num, :num] = np.array(matrix["accuracy"], dtype=np.float64)
        return whole

    @cached_property
    def classes_seen(self) -> list[int]:
        """Number of classes seen after each task."""
        tasks = max((matrix["classes_of_task"] for matrix in self._matrices), key=len)
        seen: set[int] = set()
        return [len(seen := seen.union(classes)) for classes in tasks]

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Number of tasks, and of test images, in each run's stream."""
        return [(len(each["classes_of_task"]), sum(each.get("num_test") or ())) for each in self._matrices]

    def hashes(self, name: str) -> dict[int, str]:
        """Return a hash ("stream", "weights", "strategy_source") of each run by seed."""
        return {seed: hashes[name] for seed, hashes in zip(self.seeds, self._hashes, strict=True)}

    def numbers(self, key: str) -> list[float]:
        """Return a metric or cost of each run; NaN: not known."""
        return [values.get(current_name(key), math.nan) for values in self.values]

    def statistic(self, key: str) -> tuple[float, float]:
        """Return mean and sample standard deviation; NaN if any run does not know, or std of one run."""
        numbers = np.array(self.numbers(key))
        return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan

    @cached_property
    def _matrices(self) -> list[dict[str, Any]]:
        return [record.read_json("matrix.json") for record in self.records]

    @cached_property
    def _hashes(self) -> list[dict[str, str]]:
        return [record.read_json("hashes.json") for record in self.records]


def computed(record: Record, metrics: Sequence[Metric]) -> dict[str, float]:
    """Return metrics of a run, computed from its predictions; they are not read for none."""
    results = record.results() if metrics else None
    return {each.name: each(results) for each in metrics} if results else {}


def group_runs(
    records: Iterable[Record], *, recompute: bool = False, asked: Sequence[Metric] = ()
) -> list[Group]:
    """Gather the runs of each spec and version of clbench, whatever the seed.

    Of two runs with one seed the later one counts. ``metrics`` are names of some that are computed where a
    record does not hold them.
    """
    by_age = sorted((record.remembering() for record in records), key=_age)
    runs: dict[tuple[str, str], dict[int, Record]] = {}
    for record in by_age:
        runs.setdefault((group_key(record.spec), record.version), {})[record.spec.run.seed] = record
    ordered = [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in runs.values()]
    labels = distinct_labels([members[0].spec for members in ordered], [version for _, version in runs])
    references = joint_runs(by_age)
    groups = []
    for label, members in zip(labels, ordered, strict=True):
        joint = {record.spec.run.seed: found for record in members if (found := references(record))}
        groups.append(Group(label, members, joint, recompute, tuple(asked)))
    return sorted(groups, key=lambda group: (group.spec.stream.name, group.label))


def common_stem(groups: Sequence[Group]) -> str:
    """Return a name for files about groups together, whatever their seeds, which no others share."""
    if len(groups) == 1:
        return groups[0].file_stem
    streams = {safe_name(group.spec.stream.name) for group in groups}
    stems = " ".join(sorted(group.file_stem for group in groups))
    what = streams.pop() if len(streams) == 1 else f"{len(streams)}-streams"
    return f"{what}_{len(groups)}-groups_{hashlib.sha256(stems.encode()).hexdigest()[:8]}"


def setting(groups: Sequence[Group]) -> list[str]:
    """Return what all groups share and their labels leave out: stream, backbone, strategy and module."""
    specs = [group.spec for group in groups]
    kinds = [
        {safe_name(spec.stream.name) for spec in specs},
        {_encoder(spec) for spec in specs},
        {_base_label(spec, True, True) for spec in specs} if len(specs) > 1 else set(),
    ]
    return [names.pop() for names in kinds if len(names) == 1]


def single(record: Record) -> Group:
    """Return the group of one run, which need not be finished."""
    return Group(distinct_labels([record.spec])[0], [record.remembering()])


def group_key(spec: RunSpec) -> str:
    """Return a hash that specs share if they differ in the seed alone."""
    return hashlib.sha256(json.dumps(spec.without_seed(), sort_keys=True).encode()).hexdigest()


def distinct_labels(specs: Sequence[RunSpec], versions: Sequence[str] = ()) -> list[str]:
    """Name each spec by what tells it from the others: strategy and module, backbone, stream, options.

    What all share is left out, the strategy and module, too, where every spec differs in options.
    """
    versions = versions or [""] * len(specs)
    shared = len({spec.stream.name for spec in specs}) == 1, len({spec.encoder for spec in specs}) == 1
    bases = [_base_label(spec, *shared) for spec in specs]
    told = [
        _differences([spec for spec, own in zip(specs, bases, strict=True) if own == base], spec)
        for spec, base in zip(specs, bases, strict=True)
    ]
    if len(set(bases)) == 1 and all(told):
        bases = [""] * len(specs)
    labels = [" ".join(filter(None, [base, *options])) for base, options in zip(bases, told, strict=True)]
    if len(set(versions)) > 1:
        several = {label for label in labels if labels.count(label) > 1}
        labels = [
            f"{label} clbench={visible(version)}" if label in several else label
            for label, version in zip(labels, versions, strict=True)
        ]
    return [
        label if labels.count(label) == 1 else f"{label} {group_key(spec)[:8]}"  # namesakes in two folders
        for label, spec in zip(labels, specs, strict=True)
    ]


def _differences(namesakes: Sequence[RunSpec], spec: RunSpec) -> list[str]:
    """Return the options in which a spec differs from its namesakes; of many, as few as tell them apart."""
    flat = [_flat(each) for each in namesakes]
    own = _flat(spec)
    different = [key for key in own if any(other.get(key) != own[key] for other in flat)]
    short: list[str] = []
    if len(different) > MOST_OPTIONS:
        for key in different:
            left = [other for other in flat if all(other.get(each) == own[each] for each in short)]
            short += [key] if any(other.get(key) != own[key] for other in left) else []
    return [f"{key.partition('.')[2]}={_short(own[key])}" for key in short or different]


def partition(groups: Sequence[Group], name: str) -> list[list[Group]]:
    """Split groups by a hash: together are those that have it equal for every seed that both have."""
    classes: list[list[Group]] = []
    for group in groups:
        own = group.hashes(name)
        for members in classes:
            other = members[0].hashes(name)
            common = own.keys() & other.keys()
            if all(own[seed] == other[seed] for seed in common) and set(own.values()) & set(other.values()):
                members.append(group)
                break
        else:
            classes.append([group])
    return classes


def _age(record: Record) -> tuple[float, Path]:
    return (record.path / "metrics.json").stat().st_mtime, record.path


def _flat(spec: RunSpec) -> dict[str, Any]:
    sections = spec.without_seed()
    return {f"{kind}.{key}": value for kind, table in sections.items() for key, value in table.items()}


def _base_label(spec: RunSpec, is_stream_shared: bool, is_backbone_shared: bool) -> str:
    words = [f"{safe_name(spec.strategy.name)}-{safe_name(spec.petl.name)}"]
    words += [] if is_backbone_shared else [_encoder(spec)]
    words += [] if is_stream_shared else [safe_name(spec.stream.name)]
    words += [f"as {visible(spec.deployed.name)}"] if spec.deployed else []
    words += ["scored on validation images"] if spec.run.scored_on == "validation" else []
    return " · ".join(words)


def _encoder(spec: RunSpec) -> str:
    """Return the backbone's name, and what it is quantised and compressed by."""
    return safe_name(spec.backbone.name) + spec.encoder.removeprefix(spec.backbone.name)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return safe_name(value) if isinstance(value, str) else str(value)
