"""Define what a stream is: a sequence of tasks cut out of one labelled image collection.

A stream file implements one method, ``load``; the protocol (how many tasks, which classes when, what is held
out) is the same for all and lives here and in ``clbench.data.protocol``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from clbench.errors import UserError
from clbench.registry import Registry, UnknownNameError, plugin_path

if TYPE_CHECKING:
    import numpy as np
    from avalanche.benchmarks import CLExperience
    from numpy.typing import NDArray

    from clbench.data.samples import Samples
    from clbench.seeds import Seeds

__path__ = plugin_path(__file__)


@dataclass(frozen=True)
class Source:
    """A labelled image collection; its two parts share one image array."""

    train: Samples  # labels in the collection's own numbering, 0..C-1
    test: Samples
    class_names: list[str]
    tasks: list[list[int]] | None = (
        None  # classes of each task, where the collection itself defines the tasks
    )
    domain: NDArray[np.int64] | None = None  # (all rows,) which domain an image is from, where that is known
    domain_names: Sequence[str] = ()  # of the domains 0, 1, ...


def _users_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("clbench")


@dataclass(frozen=True)
class Places:
    """Where data may be found and where decoded copies may be kept."""

    # what the user named; may hold the torchvision layout, class folders or <name>.npz
    data_dir: Path | None = None
    cache_dir: Path = field(default_factory=_users_cache)


@dataclass(frozen=True)
class Task:
    """One task: labels are class numbers in stream order, so the first task's classes are 0, 1, ..."""

    index: int  # 0-based place in the stream
    classes: list[int]  # every class that occurs in its training images
    new_classes: list[int]  # those that no earlier task had
    train: Samples
    validation: Samples
    test: Samples  # of no other task: where classes come back, those of the classes that are new here


@dataclass(frozen=True)
class TaskStream:
    """The tasks in the order in which a strategy meets them."""

    name: str
    tasks: list[Task]
    class_order: list[int]  # class_order[k] is the collection's own number of stream class k
    class_names: list[str]  # in stream order
    augment: str  # the training transform that suits these images
    scenario: str = "class"  # class, task (the task's identity is told with a test image) or domain
    has_boundaries: bool = True  # whether a task differs from the next by more than a segment of one flow
    is_ordered: bool = False  # whether training images come in the order of their samples, not shuffled
    micro_batch: int = 0  # images that arrive together and once only; 0: a task's images may be revisited
    domain_names: Sequence[str] = ()  # of the tasks, where each is a domain

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the scenario, the class order, and each part's rows, labels and first image."""
        import numpy as np

        kind = (self.scenario, self.has_boundaries, self.is_ordered, self.micro_batch, [*self.domain_names])
        total = hashlib.sha256(repr((self.class_order, kind)).encode())
        for task in self.tasks:
            for part in (task.train, task.validation, task.test):
                total.update(np.ascontiguousarray(part.images[part.rows[:1]]).tobytes())
                total.update(np.ascontiguousarray(part.rows).tobytes())
                total.update(np.ascontiguousarray(part.labels).tobytes())
        return total.hexdigest()

    def experiences(self, split: str = "train") -> list[CLExperience]:
        """Return the tasks as Avalanche experiences of the split: train, validation or test.

        Their task labels tell the task where the scenario does, and are 0 elsewhere.
        """
        from clbench.data.experiences import as_experiences

        parts = [getattr(task, split) for task in self.tasks]
        return as_experiences(parts, split, tasks_told=self.scenario == "task")


@dataclass
class Stream(ABC):
    """Options that every stream has, and the one method that a stream file writes."""

    default_augment: ClassVar[str] = "rrc-flip"
    recipe: ClassVar[dict[str, bool | int | float | str]] = {}  # strategy options that suit its size

    tasks: str = (
        "10"  # "10" equal tasks, the field's "B0-Inc10", "B50-Inc10" (B: classes in the first task), "stream"
        # (the collection's own); with domains: how many to make
    )
    order: str = "natural"  # class order: natural, random, a seed such as 1993, or lae-1, lae-2, lae-3
    validation_rate: Annotated[float, Field(ge=0, lt=1)] = (
        0.1  # share of each class's training images held out
    )
    train_per_class: Annotated[int, Field(ge=0)] = (
        0  # at most so many training images a class (of each domain); 0: all
    )
    test_per_class: Annotated[int, Field(ge=0)] = (
        0  # at most so many test images a class (of each domain); 0: all
    )
    augment: str = (
        ""  # training transform: none, crop, crop-flip, rrc, rrc-flip; empty: what suits the stream
    )
    scenario: Literal["class", "task", "domain"] = (
        "class"  # class; task: a test image tells its task; domain: a domain a task, with the same classes
    )
    domains: str = (
        ""  # made of the collection: rotations, permutations, corruptions; empty: all of its own domains
    )
    online: Annotated[int, Field(ge=0)] = (
        0  # images a micro-batch, each seen once; 0: offline, a task's images may be revisited
    )
    arrangement: Literal["disjoint", "blurry", "si-blurry", "gaussian", "repetition"] = (
        "disjoint"  # of the classes over time; blurry, si-blurry and gaussian have no task boundaries
    )
    disjoint_rate: Annotated[float, Field(ge=0, le=1)] = (
        0.5  # blurry, si-blurry: share of the classes that come in one task only
    )
    blur_rate: Annotated[float, Field(ge=0, le=1)] = (
        0.1  # blurry, si-blurry: share of the other classes' images that come in other tasks
    )
    gaussian_width: Annotated[float, Field(gt=0)] = (
        1.0  # gaussian: standard deviation of a class in time, where the peaks of two classes lie 1 apart
    )
    repeat_rate: Annotated[float, Field(ge=0, le=1)] = (
        0.2  # repetition: probability that a class comes back in a later task
    )
    imbalance: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # training images of the rarest class, as a share of the most frequent one's; 1: all there are
    )
    long_tail: Literal["shuffled", "ordered"] = (
        "shuffled"  # imbalance: classes become rarer in an order of their own, or in the class order
    )
    shots: Annotated[int, Field(ge=0)] = (
        0  # at most so many training images a class in every task after the first; 0: all
    )
    label_noise: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # share of each class's training labels replaced by another class of the task
    )
    noise: Literal["symmetric", "pair"] = (
        "symmetric"  # label_noise: any other class of the task, or always the next one
    )

    @abstractmethod
    def load(self, places: Places) -> Source:
        """Return the whole collection; DataNotFoundError if it is neither there nor to be had."""

    def build(self, name: str, places: Places, seeds: Seeds) -> TaskStream:
        """Load the collection and cut it into tasks."""
        from clbench.data.protocol import cut

        return cut(self, name=name, source=self.load(places), seeds=seeds)


class DataNotFoundError(UserError, FileNotFoundError):
    """Data that are neither on this machine nor to be downloaded; the text says what to do."""


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
