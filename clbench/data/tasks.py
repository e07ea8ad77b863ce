"""Say what a stream is made of: a labelled collection, where it lies, and the tasks that it is cut into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clbench.data.samples import Samples


class DataNotFoundError(UserError, FileNotFoundError):
    """Data that are neither on this machine nor to be downloaded; the text says what to do."""


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
    notes: Sequence[
        str
    ] = ()  # lines for the run's header: what was not read, and what was read by which rule


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
    notes: Sequence[str] = ()  # what its source wants the run's header to say

    def __post_init__(self) -> None:
        """Refuse images that are not finite: nothing asks a stream of somebody else's for uint8."""
        from clbench.outside.finite import refuse_not_finite  # imports torch

        parts = [part for task in self.tasks for part in (task.train, task.validation, task.test)]
        for images in {id(part.images): part.images for part in parts}.values():
            refuse_not_finite(images, "the images (image, row, column, channel)", f"stream {self.name}")

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
