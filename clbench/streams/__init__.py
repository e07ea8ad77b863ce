"""Define what a stream is: a sequence of tasks cut out of one labelled image collection.

A stream file implements one method, ``load``; how its collection is cut into tasks (how many, which classes
when, what is held out) is the same for all and lives in ``clbench.data.protocol``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from clbench.data.scenarios.options import ScenarioOptions
from clbench.data.tasks import DataNotFoundError, Places, Source, Task, TaskStream
from clbench.registry import Registry, UnknownNameError, plugin_path

if TYPE_CHECKING:
    from clbench.seeds import Seeds

__path__ = plugin_path(__file__)


@dataclass
class Stream(ScenarioOptions, ABC):
    """Options that every stream has, and the one method that a stream file writes."""

    recipe: ClassVar[dict[str, bool | int | float | str]] = {}  # strategy options that suit its size

    @abstractmethod
    def load(self, places: Places) -> Source:
        """Return the whole collection; DataNotFoundError if it is neither there nor to be had."""

    def build(self, name: str, places: Places, seeds: Seeds) -> TaskStream:
        """Load the collection and cut it into tasks."""
        from clbench.data.checked_source import checked_source
        from clbench.data.protocol import cut

        return cut(self, name=name, source=checked_source(self, self.load(places)), seeds=seeds)


registry: Registry[Stream] = Registry("streams", __name__, Stream)
register, get, names = registry.register, registry.get, registry.names


def split(name: str) -> tuple[str, dict[str, str]]:
    """Split ``folder:PATH`` into the stream's name and the option that its argument sets."""
    head, colon, argument = name.partition(":")
    if not colon or head not in registry.names():
        return name, {}
    option = registry.card(head).preset.get("argument")
    if not isinstance(option, str):
        raise UnknownNameError(f"stream {head!r} takes no argument; write --stream {head}")
    return head, {option: argument}


__all__ = [
    "DataNotFoundError",
    "Places",
    "Source",
    "Stream",
    "Task",
    "TaskStream",
    "get",
    "names",
    "register",
    "split",
]
