"""Refuse options of a stream that do not go together."""

from __future__ import annotations

from clbench.data.orders import ProtocolError
from clbench.data.scenarios.arrangements import ARRANGEMENTS
from clbench.data.scenarios.made_domains import KINDS
from clbench.data.scenarios.options import ScenarioOptions
from clbench.data.transforms import AUGMENTS
from clbench.registry import did_you_mean


def check_options(options: ScenarioOptions) -> None:
    """Raise ProtocolError, in one line, at the first option that does not fit the others."""
    augment = options.augment or options.default_augment
    if augment not in AUGMENTS:
        near = did_you_mean(augment, AUGMENTS)
        raise ProtocolError(
            f"stream.augment: no transform {augment!r}{near} (allowed: {', '.join(AUGMENTS)})"
        )
    if options.domains and options.domains not in KINDS:
        near = did_you_mean(options.domains, KINDS)
        raise ProtocolError(
            f"stream.domains: no kind of domains {options.domains!r}{near} (allowed: {', '.join(KINDS)})"
        )
    if options.domains and options.scenario != "domain":
        raise ProtocolError(
            f"stream.domains: {options.domains} are tasks of their own; write stream.scenario=domain as well"
        )
    arrangement = options.arrangement
    if options.scenario == "domain" and arrangement != "disjoint":
        raise ProtocolError(
            f"stream.arrangement: {arrangement} arranges classes, and with stream.scenario=domain each task"
            " has them all (allowed: disjoint)"
        )
    if ARRANGEMENTS[arrangement].has_boundaries:
        return
    bounded = ", ".join(name for name, each in ARRANGEMENTS.items() if each.has_boundaries)
    for is_given, what in (
        (options.scenario == "task", "scenario: task"),
        (options.shots, "shots: few-shot"),
    ):
        if is_given:
            raise ProtocolError(
                f"stream.{what} needs tasks with boundaries, and stream.arrangement={arrangement} has none"
                f" (allowed: {bounded})"
            )
