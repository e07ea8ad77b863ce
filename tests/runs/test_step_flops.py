"""A training step is counted by what its batch holds: worked examples on a linear classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench import strategies
from clbench.backbones.backbone import Preprocessing
from clbench.data.batches import Batcher
from clbench.data.inputs import Batch, Inputs
from clbench.evaluate.meter import Meter
from clbench.evaluate.step_flops import StepFlops
from clbench.learning.memory import Memory
from clbench.runs.step import Step
from clbench.seeds import Seeds
from clbench.strategies import Strategy

AS_STORED = Preprocessing(1, mean=(0.0,) * 3, std=(1 / 255,) * 3, crop=1.0, interpolation="bilinear")
PASS = (
    2 * 3 * 2
)  # FLOPs of an image of three numbers through a layer of two: forward, or the weights' gradient


class Linear:
    """A classifier of three-pixel "images" that are their own features; without a bias."""

    def __init__(self) -> None:
        self.head = nn.Linear(3, 2, bias=False)

    def parts(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def logits(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.head(inputs.images.flatten(1))
        return logits


class Trial:
    """Steps of a strategy on batches of so many new images, and what each was counted as."""

    def __init__(self, name: str, memory_size: int = 8, **options: Any) -> None:
        strategy: Strategy = strategies.get(name)(memory_size=memory_size, **options)
        self.memory = Memory(memory_size)
        extras = {"logits": ((2,), torch.float32)} if "der" in name else {}
        self.memory.reserve((3, 1, 1), **extras)
        vars(strategy).update(model=Linear(), memory=self.memory, retaining=None)
        self.strategy = strategy
        self.meter = Meter(torch.device("cpu"))
        self.flops = StepFlops(self.meter)
        self.step = Step(strategy, Seeds(0), torch.device("cpu"), "fp32", self.flops)
        self.optimizer = torch.optim.SGD(strategy.trainable(), lr=0.1)
        pixels = np.arange(60, dtype=np.uint8).reshape(20, 1, 1, 3)
        self.batcher = Batcher(pixels, AS_STORED, "none", torch.device("cpu"))
        self.num_steps = 0

    def learn(self, num_new: int, epoch: int = 0) -> float:
        """Make a step on new images; return the FLOPs that it was counted as."""
        before = self.meter.flops["train"]
        batch = Batch(
            batcher=self.batcher,
            rows=np.arange(num_new),
            labels=torch.arange(num_new) % 2,
            task=0,
            seeds=Seeds(0),
            position=(0, epoch, self.num_steps),
        )
        self.num_steps += 1
        self.step.learn(batch, self.optimizer, 0.0)
        return self.meter.flops["train"] - before


@pytest.mark.parametrize("name", ["er", "er-ace", "der"])
def test_replayed_images_count_from_the_step_in_which_they_are_replayed(name: str):
    trial = Trial(name, replay_batch=4)
    replayed = [0, 2, 4, 4, 4, 4]  # the memory has room for eight, four of them are drawn
    assert [trial.learn(2) for _ in replayed] == [2 * PASS * (2 + each) for each in replayed]
    assert trial.meter.flops["train"] == 2 * PASS * (6 * 2 + 18)
    assert trial.meter.flops["train_per_image"] == 2 * PASS * 3
    assert trial.meter.flops["train_forward_per_image"] == PASS * 3


def test_two_draws_count_twice():
    trial = Trial("derpp", replay_batch=3)
    assert [trial.learn(2) for _ in range(4)] == [2 * PASS * (2 + 2 * each) for each in (0, 2, 3, 3)]


def test_a_batch_of_another_size_is_counted_as_what_it_is():
    trial = Trial("er", memory_size=4, replay_batch=4)
    found = [trial.learn(new, epoch) for epoch in range(3) for new in (4, 4, 3)]
    replayed = [0, 4, 4, 4, 4, 4, 4, 4, 4]
    new = [4, 4, 3] * 3
    assert found == [2 * PASS * (one + other) for one, other in zip(new, replayed, strict=True)]


def test_the_virtual_step_and_its_candidates_count():
    trial = Trial("mir", replay_batch=2, subsample=4)
    found = [trial.learn(2) for _ in range(5)]
    step, virtual = (
        2 * PASS * (2 + 2),
        2 * PASS * 2,
    )  # forward and backward of new and replayed, of the new alone
    looked_at = [2 * PASS * candidates for candidates in (4, 4, 4)]  # before and after it
    assert found == [2 * PASS * 2, step, *(step + virtual + each for each in looked_at)]


def test_the_reference_gradient_counts_by_what_is_drawn():
    trial = Trial("agem", sample_size=4)
    assert [trial.learn(2) for _ in range(2)] == [2 * PASS * 2] * 2  # nothing to compare with
    trial.memory.reservoir(stored(trial, 3), torch.Generator())
    assert [trial.learn(2, epoch=1) for _ in range(2)] == [2 * PASS * (2 + 3)] * 2
    trial.memory.reservoir(stored(trial, 5), torch.Generator())
    assert trial.learn(2, epoch=2) == 2 * PASS * (2 + 4)


def test_few_steps_are_counted_and_none_differently_after_a_stop(monkeypatch: pytest.MonkeyPatch):
    counted = []
    counting = Meter.counting
    monkeypatch.setattr(Meter, "counting", lambda self: counted.append(1) or counting(self))
    trial = Trial("er", memory_size=4, replay_batch=4)
    steps = [trial.learn(2) for _ in range(10)]
    assert len(counted) == 3 * 4  # three parts each; nothing, two, four and once more four replayed
    resumed = StepFlops(trial.meter)
    resumed.load(trial.flops.state())
    trial.step.flops = resumed
    assert [trial.learn(2) for _ in range(2)] == steps[-2:]
    assert len(counted) == 3 * 4


def test_what_comes_unexpected_is_taken_by_its_size_and_counted_from_then_on():
    trial = Trial("er", memory_size=8, replay_batch=4)
    steps = [trial.learn(2) for _ in range(5)]
    trial.memory.count = 1  # no memory does that
    assert trial.learn(2) == steps[0] / 2 * 3
    trial.memory.count = 8
    assert trial.learn(2) == steps[-1]


def stored(trial: Trial, number: int) -> Any:
    """So many images as a memory takes them."""
    batch = Batch(
        batcher=trial.batcher,
        rows=np.arange(number),
        labels=torch.arange(number) % 2,
        task=0,
        seeds=Seeds(0),
        position=(0, 0, 0),
    )
    return replace(batch.new(), extras={})
