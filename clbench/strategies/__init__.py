"""Define what a strategy is: how a backbone learns one task after another, and how it predicts.

A strategy file holds a dataclass of hyper-parameters with the hooks below, in the order in which the loop
calls them. It owns no loop, no loader and no optimiser step. ``clbench.testing.check_strategy`` tells whether
it keeps the contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from clbench.data.tasks import Task
from clbench.options import LATER
from clbench.registry import Registry, UnknownNameError, did_you_mean, is_address, plugin_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clbench.backbones.backbone import Backbone
    from clbench.data.inputs import Batch, Feed, Inputs
    from clbench.data.samples import Samples
    from clbench.petl import Petl
    from clbench.seeds import Seeds

__path__ = plugin_path(__file__)

# Of a learning rate: as it is; half a period of a cosine, from step to step; a quarter of one, from epoch to
# epoch; a tenth from a milestone on.
Schedule = Literal["constant", "cosine", "quarter-cosine", "step"]


@dataclass
class Strategy(ABC):
    """The recipe that every strategy has, and its hooks; subclasses add hyper-parameters as fields.

    ``batch.images`` are normalised pixels; ``batch.features(backbone)`` is what a backbone makes of them,
    computed once where it cannot change.
    """

    # other defaults, and their module as "petl", where all words of a key hold: see clbench.records.recipes
    recipes: ClassVar[dict[str, dict[str, Any]]] = {}
    named_recipes: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {}  # of other code bases, likewise
    module_options: ClassVar[dict[str, dict[str, Any]]] = {}  # a module's other defaults, by its name
    needs: ClassVar[tuple[str, ...]] = ()  # of stream and backbone: names in clbench.runs.needs.NEEDS
    rereads: ClassVar[str] = ""  # for what it reads images again that it trains on, in words
    revisits: ClassVar[bool] = False  # whether it trains on images of earlier tasks that it holds no copy of
    alone: ClassVar[str] = ""  # why it cannot learn in several processes that share a batch; empty: it can
    resumable: ClassVar[bool] = True  # whether parts() is its whole state; if not, a stopped run begins anew
    own_variants: ClassVar[
        tuple[str, ...]
    ] = ()  # forms in which it can predict, too, by name: see ``become``
    refits: ClassVar[bool] = False  # whether what it learnt in closed form can be learnt anew: see ``forget``
    gives_probabilities: ClassVar[bool] = False  # whether each row of predict() is >= 0 and sums to 1

    epochs: Annotated[int, Field(ge=1)] = 5  # passes over the training data of a task
    batch_size: Annotated[int, Field(ge=1)] = 24  # images a step
    drop_last: bool = True  # leave an incomplete last batch out (never a task's only one)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 0.0028125
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Schedule = "constant"  # of the rate; cosine: to 0, by step; quarter-cosine: to 0.016, by epoch
    milestone: Annotated[float, Field(gt=0, le=1), LATER] = (
        0.9  # step: share of the epochs before a tenth of it
    )
    head_bits: Literal[1, 2, 4, 8, 32] = 32  # a weight of the head; below 32 quantised, without bias
    recipe: Annotated[str, LATER] = "authors"  # whose defaults; or the name of another recipe

    @abstractmethod
    def setup(self, backbone: Backbone, petl: Petl, seeds: Seeds) -> None:
        """Attach the module to the frozen backbone and make what does not depend on a task."""

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return what the strategy holds, by kind: it is trained, checkpointed and counted as stored bytes.

        The backbone is not among them. A resumed run calls ``begin_task`` for every task begun and then loads
        the saved values, so the shapes in the parts may depend on the tasks begun and on nothing else. While
        others train, a part in which nothing requires a gradient stays in evaluation mode.
        """

    def training_samples(self, seen: Sequence[Task], num_tasks: int) -> Samples | None:
        """Return what to train on now that the last of ``seen`` has arrived; None to learn nothing yet."""
        return seen[-1].train

    def num_epochs(self, task_index: int) -> int:
        """Return how often to pass over a task's data with steps; 0 for what is learnt in closed form."""
        return self.epochs

    def steps_per_batch(self) -> int:
        """Return how many optimiser steps to make on a batch, each by draws of its own, before the next."""
        return 1

    def begin_task(self, task: Task) -> None:
        """Get ready for a task: grow what grows with its classes. The optimiser is made after this hook.

        A stream without boundaries comes in segments; a strategy is told here which classes may occur in the
        next one, and its optimiser goes on. This hook is called again when a run is resumed.
        """

    def before_training(self, task: Task, images: Feed) -> None:
        """Look at the task's images before the first epoch, for instance for directions to spare."""

    def begin_epoch(self, epoch: int) -> None:
        """Get ready for an epoch (0-based) of the task."""

    def before_step(self, batch: Batch) -> Batch:
        """Return the batch to learn from, for instance with replayed images behind the new ones."""
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Return the scalar to minimise; change no state here but the autograd graph."""
        raise TypeError(f"{type(self).__name__} learns in closed form and has no loss")

    def before_update(self, batch: Batch) -> None:
        """Change the gradients before the optimiser uses them, for instance by projecting them."""

    def after_step(self, batch: Batch) -> None:
        """Follow up on an optimiser step: a moving average, a sample for the memory."""

    def end_task(self, task: Task, images: Feed) -> None:
        """Finish a task before it is evaluated; what is learnt in closed form is learnt here."""

    @abstractmethod
    def predict(self, inputs: Inputs) -> Tensor:
        """Return scores (B, classes seen) of a batch, any finite numbers; the highest is the prediction.

        A row must depend on its own image alone. Logits, log-probabilities, similarities and minus distances
        all do: only what is higher counts. A method that has probabilities returns those and declares
        ``gives_probabilities``: calibration and whatever else is read from shares is known of them alone.
        Once a task is learnt, rows that are all the same stop a run. ``inputs.task`` is None unless the
        scenario tells it.
        """

    def take_back(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load what ``parts`` held, by part, once ``begin_task`` was called for every task begun.

        Where that is not the whole state (``resumable``), it is enough to predict as before. Layers that were
        stored packed stay as they were stored.
        """
        from clbench.quant.packed import load

        for kind, part in self.parts().items():
            load(part, state[kind])

    def summary(self) -> dict[str, Tensor]:
        """Return what the last prediction was worked out of exemplars, such as class means: no picture."""
        return {}

    def predict_by(self, summary: Mapping[str, Tensor]) -> None:
        """Predict by what ``summary`` returned, where the exemplars themselves were left out."""

    def become(self, variant: str) -> None:
        """Predict from now on as one of ``own_variants``; this is called on a copy that learns no more."""
        raise ValueError(f"{type(self).__name__} has no variant {variant!r}")

    def forget(self) -> None:
        """Drop what was learnt in closed form: all tasks will come again, without training; modules stay."""
        raise ValueError(f"{type(self).__name__} cannot learn anew what it has learnt")

    def cautions(self) -> list[str]:
        """Return what a user should know of these options before a run, one line each."""
        return []

    def notes(self) -> dict[str, float]:
        """Return what the strategy has to say after an evaluation; it goes to the record's events."""
        return {}

    def trainable(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups: everything in ``parts`` that requires a gradient.

        ``rate_ratio`` multiplies a group's learning rate, where a module has another for some tensors.
        """
        from clbench.petl.rates import by_rate_ratio

        groups = by_rate_ratio(self.parts().values())
        return [
            {"params": group, **({} if ratio == 1 else {"rate_ratio": ratio})}
            for ratio, group in groups.items()
        ]


registry: Registry[Strategy] = Registry("strategies", __name__, Strategy)
register, names = registry.register, registry.names


def split(name: str) -> tuple[str, str | None]:
    """Split ``<strategy>-<petl>`` into the two names; the second is None where only a strategy is named."""
    from clbench import petl

    if name in registry.names() or is_address(name):
        return name, None
    for cut in range(len(name) - 1, 0, -1):
        if name[cut] == "-" and name[:cut] in registry.names() and name[cut + 1 :] in petl.names():
            return name[:cut], name[cut + 1 :]
    return name, None


def combinations() -> list[str]:
    """Return every strategy name and every ``<strategy>-<petl>``."""
    from clbench import petl

    return sorted([*names(), *(f"{name}-{module}" for name in names() for module in petl.names())])


def check(name: str) -> None:
    """Raise what ``get`` would, as far as that can be told without running a line of the strategy."""
    strategy, module = split(name)
    if module is None and not is_address(name) and name not in registry.names():
        near = did_you_mean(name, combinations())
        raise UnknownNameError(f"no strategy named {name!r}{near} (see: clbench list strategies)")
    registry.check(strategy)


def get(name: str) -> type[Strategy]:
    """Return the class behind a strategy's name, with or without ``-<petl>``."""
    check(name)
    return registry.get(split(name)[0])


__all__ = ["Strategy", "Task", "combinations", "get", "names", "register", "split"]
