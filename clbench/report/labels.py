"""Give groups the names that a user wants to read in tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clbench.options import SpecError
from clbench.registry import did_you_mean
from clbench.report.groups import Group


def relabelled(groups: Sequence[Group], wanted: Sequence[str]) -> list[Group]:
    """Return the groups with the names of ``ID=NAME`` items; SpecError in one line for what fits none.

    ID is a group's present label, or the beginning of the id or folder name of any of its runs.
    """
    names: dict[str, str] = {}
    for item in wanted:
        key, name = _parsed(item, groups)
        found = [group for group in groups if group.label == key] or _with_run(groups, key)
        if len(found) != 1:
            raise _not_one(item, key, found, groups)
        names[found[0].label] = name
    labels = [names.get(group.label, group.label) for group in groups]
    for label in labels:
        if labels.count(label) > 1:
            raise SpecError(f"--label: two groups would be called {label!r}")
    return [replace(group, label=label) for group, label in zip(groups, labels, strict=True)]


def _parsed(item: str, groups: Sequence[Group]) -> tuple[str, str]:
    """Split at the equals sign that follows a label, which may hold some itself, else at the first."""
    for group in sorted(groups, key=lambda each: -len(each.label)):
        if item.startswith(f"{group.label}="):
            key, name = group.label, item[len(group.label) + 1 :]
            break
    else:
        key, _, name = item.partition("=")
    if not (key.strip() and name.strip()):
        raise SpecError(f"--label {item!r}: write ID=NAME, as in --label {groups[0].label}=Ours")
    return key.strip(), name.strip()


def _with_run(groups: Sequence[Group], start: str) -> list[Group]:
    return [
        group
        for group in groups
        if any(name.startswith(start) for run in group.records for name in (run.spec.id, run.path.name))
    ]


def _not_one(item: str, key: str, found: Sequence[Group], groups: Sequence[Group]) -> SpecError:
    if found:
        return SpecError(
            f"--label {item!r}: {key!r} begins runs of {', '.join(each.label for each in found)}"
        )
    known = [
        *(group.label for group in groups),
        *(run.spec.id[:8] for group in groups for run in group.records),
    ]
    near = did_you_mean(key, known)
    return SpecError(f"--label {item!r}: no group or run {key!r}{near} (allowed: {', '.join(known)})")
