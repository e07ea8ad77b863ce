"""Say what a strategy may need of a stream and of a backbone, and refuse a pair in which it is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.errors import UserError

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone
    from clbench.data.tasks import TaskStream
    from clbench.strategies import Strategy


class NeedError(UserError, ValueError):
    """A strategy that cannot learn from a stream, or with a backbone."""

    options_are_at_fault = True


@dataclass(frozen=True)
class Need:
    """Something that not every stream or backbone has."""

    words: str  # what is needed
    remedy: str  # what to run instead
    is_met: Callable[[TaskStream, Backbone], bool]


def _brings_classes(stream: TaskStream, _: Backbone) -> bool:
    return all(task.new_classes for task in stream.tasks)


def _parts_classes(stream: TaskStream, _: Backbone) -> bool:
    return all(task.classes == task.new_classes for task in stream.tasks)


def _has_attention(_: TaskStream, backbone: Backbone) -> bool:
    return all(block.has("attn.keys") for block in backbone.blocks)


NEEDS = {
    "boundaries": Need(
        "to be told where a task ends",
        "a stream with boundaries, or a strategy without this need",
        lambda stream, _: stream.has_boundaries,
    ),
    "task-identity": Need(
        "to be told the task of a test image",
        "--set stream.scenario=task",
        lambda stream, _: stream.scenario == "task",
    ),
    "new-classes": Need("new classes in every task", "a class- or task-incremental stream", _brings_classes),
    "disjoint-classes": Need(
        "classes that never come back",
        "stream.arrangement=disjoint, class- or task-incremental",
        _parts_classes,
    ),
    "many-passes": Need(
        "to see a task's images again", "stream.online=0", lambda stream, _: stream.micro_batch == 0
    ),
    "tokens": Need(
        "a backbone with attention",
        "a Vision Transformer such as vit-micro or vit_tiny_patch16_224",
        _has_attention,
    ),
}


def refuse_impossible(name: str, strategy: Strategy, stream: TaskStream, backbone: Backbone) -> None:
    """Raise NeedError in one line if the stream or the backbone lacks what the strategy declares to need."""
    for each in strategy.needs:
        need = NEEDS[each]
        if not need.is_met(stream, backbone):
            raise NeedError(
                f"strategy {name} needs {need.words}, which {stream.name} on {backbone.name} does not offer;"
                f" use {need.remedy}"
            )


def cautions(name: str, strategy: Strategy, stream: TaskStream) -> list[str]:
    """Return what a user should know before a run that is possible, but may not be what it seems."""
    found = strategy.cautions()
    if strategy.rereads and stream.micro_batch:
        found.append(
            f"{name} reads the images of a task again ({strategy.rereads}), though stream.online="
            f"{stream.micro_batch} shows each once: it keeps them until the task ends"
        )
    return found


def refuse_unknown_classes(stream: TaskStream) -> None:
    """Raise NeedError in one line if a later task has classes that no head knows before it is learnt."""
    for task in stream.tasks[1:]:
        if task.new_classes:
            raise NeedError(
                f"run.eval_ahead=true: task {task.index + 1} of {stream.name} brings classes that nothing can"
                " predict before they are learnt, so forward transfer is meaningless there; use"
                " stream.scenario=domain"
            )


def refuse_waiting(stream: TaskStream) -> None:
    """Raise NeedError in one line if the stream's images wait until they are learnt."""
    if not stream.micro_batch:
        raise NeedError(
            f"run.step_cost above 1: the images of {stream.name} wait until they are learnt; a stream that"
            " does not wait is one with stream.online=10, say"
        )
