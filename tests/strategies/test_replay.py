"""What each rehearsal strategy learns from: worked examples, and what it equals with nothing to replay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench import strategies
from clbench.backbones.backbone import Preprocessing
from clbench.data.batches import Batcher
from clbench.data.inputs import Batch, Inputs
from clbench.learning.losses.quality_retaining import QualityRetaining
from clbench.learning.memory import Memory
from clbench.learning.replay import widen_logits
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.testing import check_strategy
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

AS_STORED = Preprocessing(1, mean=(0.0,) * 3, std=(1 / 255,) * 3, crop=1.0, interpolation="bilinear")


class Linear:
    """A classifier of three-pixel "images" that are their own features; without a bias."""

    def __init__(self, num_classes: int) -> None:
        self.head = nn.Linear(3, num_classes, bias=False)
        nn.init.zeros_(self.head.weight)

    def parts(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def logits(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.head(inputs.images.flatten(1))
        return logits


def images(pixels: list[list[int]], labels: list[int], step: int = 0) -> Batch:
    """A batch of images of one pixel, whose three channels are the features."""
    batcher = Batcher(np.array(pixels, np.uint8)[:, None, None], AS_STORED, "none", torch.device("cpu"))
    rows = np.arange(len(pixels))
    position = (0, 0, step)
    return Batch(
        batcher=batcher, rows=rows, labels=torch.tensor(labels), task=0, seeds=Seeds(0), position=position
    )


def linear(strategy: Strategy) -> Strategy:
    """The strategy on the linear classifier, with room in its memory."""
    memory = Memory(8)
    if "der" in strategies.registry.name_of(type(strategy)):
        memory.reserve((3, 1, 1), logits=((2,), torch.float32))
    memory.reserve((3, 1, 1))
    vars(strategy).update(model=Linear(2), memory=memory, retaining=None)
    return strategy


def run(strategy: Strategy, num_tasks: int = 1) -> dict[str, Tensor]:
    """The module and the head that the strategy ends with, on the generated stream."""
    trial = Trial(strategy, "adapter", generated_stream(num_tasks), small_backbone(), is_exact=True)
    trial.run()
    return {name: value for name, value in trial.state().items() if name.startswith(("petl/", "head/"))}


# What they equal


@pytest.mark.parametrize("name", ["er", "er-ace", "der", "derpp", "mir", "agem"])
def test_with_nothing_in_the_memory_yet_a_step_is_naive(name: str) -> None:
    """The whole task is one step, so nothing is ever drawn."""
    options = {"epochs": 1, "batch_size": 24, "learning_rate": 0.1}
    expected = run(strategies.get("naive")(**options))
    found = run(strategies.get(name)(**options))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("name", ["der", "derpp"])
def test_dark_experience_replay_of_no_weight_is_naive(name: str) -> None:
    """But for the last places of sums over a batch that the replayed images make larger."""
    options = {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05}
    expected = run(strategies.get("naive")(**options), num_tasks=2)
    weightless = {"alpha": 0.0} if name == "der" else {"alpha": 0.0, "beta": 0.0}
    found = run(strategies.get(name)(**options, **weightless), num_tasks=2)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    weighed = run(strategies.get(name)(**options, alpha=1.0), num_tasks=2)
    assert any((value - expected[key]).abs().max() > 1e-3 for key, value in weighed.items())


# What is replayed and what is kept


def test_a_batch_is_followed_by_as_many_from_the_memory_or_as_many_as_asked_for() -> None:
    batch = images([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 1, 0])
    for replay_batch, expected in ((0, 3), (2, 2), (8, 3)):
        strategy = linear(strategies.get("er")(replay_batch=replay_batch))
        strategy.loss(strategy.before_step(batch))
        strategy.after_step(batch)
        composed = strategy.before_step(batch)
        assert len(composed) == 3 + expected
        assert composed.num_new == 3
        assert torch.equal(composed.images[:3], batch.images)


@pytest.mark.parametrize(("name", "expected"), [("er", 24), ("derpp", 48)])
def test_an_image_is_offered_once_but_with_its_logits_each_time(name: str, expected: int) -> None:
    """24 images, met twice each."""
    strategy = strategies.get(name)(epochs=2, batch_size=8, learning_rate=0.01)
    run(strategy)
    assert strategy.memory.num_seen == expected


def test_logits_are_kept_as_they_were_when_the_image_was_met() -> None:
    strategy = linear(strategies.get("der")())
    with torch.no_grad():
        strategy.model.head.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    batch = strategy.before_step(images([[1, 0, 0], [0, 2, 0]], [0, 1]))
    strategy.loss(batch)
    with torch.no_grad():
        strategy.model.head.weight.zero_()  # the step that follows
    strategy.after_step(batch)
    assert strategy.memory.at(torch.arange(2)).extras["logits"].tolist() == [[1, 4], [4, 10]]


def test_a_later_class_has_the_lowest_logit_of_what_was_stored_before() -> None:
    memory = Memory(2)
    memory.reserve((1,), logits=((2,), torch.float32))
    stored = replace(images([[1, 0, 0]], [0]).new(), items=torch.zeros(1, 1).byte())
    memory.append(replace(stored, extras={"logits": torch.tensor([[3.0, -1]])}))
    for num_classes in (4, 4):  # the second time there is nothing to do
        widen_logits(memory, num_classes)
        assert memory.at(torch.tensor([0])).extras["logits"].tolist() == [[3, -1, -1, -1]]


def test_the_two_terms_of_dark_experience_replay_have_draws_of_their_own() -> None:
    strategy = linear(strategies.get("derpp")(replay_batch=3))
    batch = images([[i, 0, 0] for i in range(8)], [0] * 8)
    strategy.loss(strategy.before_step(batch))
    strategy.after_step(batch)
    dark, labelled = strategy.before_step(batch).replayed
    assert len(set(dark.rows.tolist())) == len(set(labelled.rows.tolist())) == 3
    assert dark.rows.tolist() != labelled.rows.tolist()


# Losses by hand


def test_new_images_compete_among_their_own_classes_only() -> None:
    """Of four equal logits new images see two and replayed ones four: ln 2 + ln 4, not ln 4."""
    batch = replace(images([[1, 0, 0]] * 4, [2, 3, 0, 1]), num_new=2)
    logits = torch.zeros(4, 4, requires_grad=True)
    loss = strategies.get("er-ace")().replay_loss(logits, batch)
    assert float(loss.detach()) == pytest.approx(math.log(2) + math.log(4))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient[:2, :2], torch.zeros(2, 2))  # not by a little: nothing reaches old classes
    assert (gradient[:2, 2:] != 0).all()
    assert (gradient[2:] != 0).all()


def test_dark_losses_by_hand() -> None:
    """New: ln 2. Logits (1, 3) that were (1, 1): 4 / 2. A label among two equal logits: ln 2."""
    strategy = linear(strategies.get("derpp")(alpha=0.25, beta=0.5, replay_batch=1))
    strategy.memory.append(replace(images([[1, 0, 0]], [0]).new(), extras={"logits": torch.ones(1, 2)}))
    batch = strategy.before_step(images([[1, 0, 0]], [0]))
    logits = torch.tensor([[0.0, 0], [1, 3], [5, 5]])
    expected = math.log(2) + 0.25 * 2 + 0.5 * math.log(2)
    assert float(strategy.replay_loss(logits, batch)) == pytest.approx(expected)
    strategy = linear(strategies.get("der")(alpha=0.25, replay_batch=1))
    batch = replace(batch, replayed=batch.replayed[:1])
    assert float(strategy.replay_loss(logits[:2], batch)) == pytest.approx(math.log(2) + 0.25 * 2)


def test_the_image_that_the_new_one_interferes_with_is_replayed() -> None:
    """From weights of 0 a step of 1 on (1, 0, 0) of class 1 makes its rows -1/2 and 1/2.

    The loss of the same image of class 0 rises from ln 2 to ln(1 + e); that of (0, 1, 0) stays.
    """
    strategy = linear(strategies.get("mir")(learning_rate=1.0, replay_batch=1))
    strategy.memory.append(images([[0, 1, 0], [1, 0, 0], [0, 0, 1]], [0, 0, 0]).new())
    new = images([[1, 0, 0]], [1])
    increase = strategy._increase(new, strategy.memory.at(torch.arange(3)))
    assert increase.tolist() == pytest.approx([0, math.log(1 + math.e) - math.log(2), 0])
    composed = strategy.before_step(new)
    assert composed.images[1].flatten().tolist() == [1, 0, 0]
    assert not strategy.model.head.weight.any()  # the step was a virtual one


def test_a_gradient_is_projected_where_the_angle_is_obtuse() -> None:
    """(3, -4) against (0, 2): -8 / 4 times (0, 2) is taken away; (3, 4) stays as it is."""
    for gradient, expected in (([3.0, -4], [3, 0]), ([3.0, 4], [3, 4]), ([3.0, 0], [3, 0])):
        strategy = linear(strategies.get("agem")())
        strategy.memory.append(images([[1, 0, 0]], [0]).new())
        first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        first.grad, second.grad = torch.tensor(gradient).split(1)
        learnt = nn.ParameterList([first, second])
        vars(strategy).update(
            parts=lambda learnt=learnt: {"head": learnt}, loss=lambda _, second=second: 2 * second
        )
        strategy.before_update(images([[1, 0, 0]], [0]))
        assert [float(first.grad), float(second.grad)] == expected


def test_agem_refers_to_tasks_that_have_ended() -> None:
    strategy = strategies.get("agem")(epochs=2, batch_size=8, learning_rate=0.01)
    sizes: list[int] = []
    after_step = strategy.after_step
    vars(strategy)["after_step"] = lambda batch: (after_step(batch), sizes.append(len(strategy.memory)))
    run(strategy, num_tasks=2)
    assert sizes == [0] * 6 + [24] * 6
    assert len(strategy.memory) == 48


# Quality Retaining


def test_quality_retaining_keeps_the_contract() -> None:
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "quality_retaining": "two_sample"}
    check_strategy(lambda: strategies.get("er-ace")(**options), "linear")


def test_quality_retaining_changes_nothing_for_a_class_that_is_not_replayed() -> None:
    """Another bank entry of class 0 is felt by the gradient only if class 0 is in the batch."""
    strategy = linear(strategies.get("er")())
    gradients = {}
    for is_replayed in (False, True):
        for remembered in (1.0, 2.0):
            vars(strategy).update(retaining=bank(remembered))
            batch = images([[1, 0, 0], [1, 1, 0]], [1, 0 if is_replayed else 1])
            weight = strategy.model.head.weight
            (gradients[is_replayed, remembered],) = torch.autograd.grad(strategy.loss(batch), weight)
    assert torch.equal(gradients[False, 1.0], gradients[False, 2.0])
    assert not torch.equal(gradients[True, 1.0], gradients[True, 2.0])


def bank(remembered: float) -> QualityRetaining:
    """Quality Retaining that remembers logits (r, 0) of an image of class 0, and (0, 1) of class 1."""
    retaining = QualityRetaining()
    retaining.grow(1, task=0)
    retaining.grow(1, task=1)
    logits = torch.tensor([[remembered, 0], [0, 1]])
    retaining.update(logits, torch.tensor([0, 1]))
    return retaining


def test_quality_retaining_knows_the_task_of_each_class() -> None:
    strategy = strategies.get("er")(epochs=1, batch_size=24, quality_retaining="ema")
    run(strategy, num_tasks=3)
    assert strategy.retaining.task_of_class.tolist() == [0, 0, 1, 1, 2, 2]
    assert strategy.retaining.bank_CJC.shape == (6, 1, 6)
    assert strategy.retaining.task_loss.shape == (3,)
