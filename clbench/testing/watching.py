"""Watch a strategy's hooks: what each changes of what it is given, and which global generators it moves."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.data.feature_cache import FeatureCache
from clbench.data.inputs import Batch, Inputs
from clbench.data.tasks import TaskStream
from clbench.strategies import Strategy

IN_A_STEP = ("before_step", "loss", "before_update", "after_step")  # before it torch's generator is seeded
HOOKS = (
    "setup",
    "training_samples",
    "begin_task",
    "before_training",
    "begin_epoch",
    *IN_A_STEP,
    "end_task",
    "predict",
)
Value = Tensor | np.ndarray[Any, Any] | list[int]


class Watch:
    """Stands between the loop and the hooks of one strategy on one stream.

    A hook that changes what it was given raises AssertionError.
    """

    def __init__(self, strategy: Strategy, stream: TaskStream) -> None:
        """Put a watched hook in the place of each; the strategy is otherwise what it was."""
        self.name = type(strategy).__name__
        self.stream = stream
        self.whole = _copied(_of_stream(stream))
        self.drawn: dict[str, str] = {}  # by hook: whose global generator it drew from
        self.handed: list[tuple[Tensor, Tensor]] = []  # features given to the hook, and a copy of them
        for hook in HOOKS:
            setattr(strategy, hook, self._watched(hook, getattr(strategy, hook)))

    def hand(self, cache: FeatureCache) -> None:
        """Hear of the features that a cache gives."""
        features = cache.features

        def handing(inputs: Inputs, backbone: Backbone) -> Tensor:
            given = features(inputs, backbone)
            self.handed.append((given, given.detach().clone()))
            return given

        cache.features = handing  # type: ignore[method-assign]  # of this one alone

    def _watched(self, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*given: Any) -> Any:
            inputs = [each for each in given if isinstance(each, Inputs)]
            before = [_copied(_of_inputs(each)) for each in inputs]
            outer, self.handed = self.handed, []
            states = _global_states()
            result = call(*given)
            moved = [name for name, state in _global_states().items() if state != states[name]]
            for name in moved:
                if not (hook in IN_A_STEP and name == "torch"):
                    self.drawn[hook] = name
            for each, values in zip(inputs, before, strict=True):
                self._expect_same(hook, values, _of_inputs(each))
                self._expect_same(hook, _images_afresh(each), vars(each))
            for features, copy in self.handed:
                self._expect_same(hook, {"features": copy}, {"features": features.detach()})
            if not inputs:
                self._expect_same(hook, self.whole, _of_stream(self.stream))
            self.handed = outer
            return result

        return watched

    def _expect_same(self, hook: str, before: Mapping[str, Value], after: Mapping[str, Value]) -> None:
        for name, value in before.items():
            is_same = name not in after or _equal(value, after[name])
            assert is_same, f"{self.name}.{hook} changes the {name} that it is given, in place; change a copy"


def _of_inputs(inputs: Inputs) -> dict[str, Value]:
    values: dict[str, Value] = {"rows": inputs.rows}
    if isinstance(inputs, Batch):
        values |= {"labels": inputs.labels}
        values |= {} if inputs.given is None else {"stored images": inputs.given}
    return values


def _images_afresh(inputs: Inputs) -> dict[str, Value]:
    """Make the images again, if they have been asked for."""
    is_asked = "images" in vars(inputs) and inputs.batcher is not None  # a test may give images of its own
    return {"images": replace(inputs).images} if is_asked else {}


def _of_stream(stream: TaskStream) -> dict[str, Value]:
    return {name: value for task in stream.tasks for name, value in _of_task(task.index, vars(task))}


def _of_task(index: int, task: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    yield f"classes of task {index}", task["classes"]
    yield f"new classes of task {index}", task["new_classes"]
    for part in ("train", "validation", "test"):
        for name in ("images", "rows", "labels"):
            yield f"{part} {name} of task {index}", getattr(task[part], name)


def _copied(values: Mapping[str, Value]) -> dict[str, Value]:
    return {
        name: value.clone() if isinstance(value, Tensor) else value.copy() for name, value in values.items()
    }


def _equal(first: Value, second: Value) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second) or bool(first.isnan().any())
    return np.array_equal(first, second)


def _global_states() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": [np.asarray(each).tobytes() for each in np.random.get_state()],
        "Python": random.getstate(),
    }
