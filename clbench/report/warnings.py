"""Say what a reader of a comparison has to know before believing it, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clbench.outside.visible import visible
from clbench.report.groups import Group, partition

SAME = {"stream": "stream, split or class order", "weights": "weights of the backbone"}


def warnings(groups: Sequence[Group]) -> list[str]:
    """Return what makes the groups' numbers less comparable, or less certain, than they look."""
    return [
        *(line for group in groups for line in _changed(group)),
        *_differences(groups),
        *(line for group in groups for line in _unlike_joint(group)),
        *(line for group in groups for line in _inside(group)),
        *_scored_on_validation(groups),
        *_selection(groups),
        *_few_seeds(groups),
    ]


def _changed(group: Group) -> Iterator[str]:
    for record in group.records:
        changes = record.changes()
        if changes:
            yield f"{record.path.name} has changed since it was written: {_some(changes)}"


def _unlike_joint(group: Group) -> Iterator[str]:
    """Say which runs are not compared with the joint training that their hashes would allow."""
    for record in group.records:
        joint = group.joint.get(record.spec.run.seed)
        own, other = (len(each.read_json("matrix.json")["accuracy"]) for each in (record, joint or record))
        if joint and own != other:
            names = f"{record.path.name} is not compared with {joint.path.name}"
            yield f"{names}: the one has {own} tasks, the other {other}"


def _differences(groups: Sequence[Group]) -> Iterator[str]:
    learners = [group for group in groups if not group.spec.deployed] or groups  # variants are as they are
    for name, noun in SAME.items():
        classes = partition(learners, name)
        if len(classes) > 1:
            yield f"Not the same {noun}: {_sides(classes)}"
    by_version: dict[str, list[Group]] = {}
    for group in groups:
        by_version.setdefault(visible(group.records[0].version), []).append(group)
    if len(by_version) > 1:
        named = [f"{version}: {_names(members)}" for version, members in sorted(by_version.items())]
        yield f"Not the same version of clbench: {' | '.join(named)}"


def _inside(group: Group) -> Iterator[str]:
    """Say what changed between the seeds of a group: their mean is then one of two things."""
    if len(set(group.hashes("strategy_source").values())) > 1:
        yield f"The strategy's file changed between the seeds of {group.label}"
    weights = list(group.hashes("weights").values())
    if 1 < len(set(weights)) < len(weights):  # all different: drawn from the seed; else one file for all
        yield f"The weights changed between the seeds of {group.label}"
    if len(set(group.extents)) > 1:
        yield f"The number of tasks or of test images changed between the seeds of {group.label}"


def _scored_on_validation(groups: Sequence[Group]) -> Iterator[str]:
    """Say which numbers are of images held out of training, to choose by, and none of test images."""
    chosen = [group for group in groups if group.spec.run.scored_on == "validation"]
    if chosen:
        who = "every group" if len(chosen) == len(groups) else _names(chosen)
        yield f"Scored on validation images, not on test images: {who}"


def _selection(groups: Sequence[Group]) -> Iterator[str]:
    """Say where settings of one method stand side by side: to take the best is to choose on test images."""
    methods: dict[tuple[object, ...], list[Group]] = {}
    for number, rivals in enumerate(partition(groups, "stream")):
        for group in rivals:
            spec = group.spec
            if spec.deployed:  # what becomes of a setting, and none of its own
                continue
            if spec.run.scored_on == "validation":  # to choose by these numbers is what they are for
                continue
            key = (number, spec.strategy.name, spec.petl.name, spec.backbone.name, group.records[0].version)
            methods.setdefault(key, []).append(group)
    several = {f"{key[1]}-{key[2]}": len(members) for key, members in methods.items() if len(members) > 1}
    if several:
        named = [f"{count} settings of {name}" for name, count in several.items()]
        yield (
            f"{_some(named)} were measured on the same test images:"
            " to report the best of them is to choose on test data"
        )


def _few_seeds(groups: Sequence[Group]) -> Iterator[str]:
    single = [group for group in groups if len(group.records) == 1]
    if single:
        who = "every group" if len(single) == len(groups) else _names(single)
        yield f"One seed only, so nothing is known of the spread: {who}"


def _sides(classes: Sequence[Sequence[Group]]) -> str:
    return " | ".join(_names(members) for members in classes)


def _names(groups: Sequence[Group]) -> str:
    return _some([group.label for group in groups])


def _some(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
