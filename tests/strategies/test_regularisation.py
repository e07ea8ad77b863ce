"""What EWC, MAS, SI and LwF hold on to, by worked examples of a linear model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.data.inputs import Batch, Feed, Inputs, sight
from clbench.data.samples import Samples
from clbench.learning.importance import Importance, flat
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task
from clbench.testing.generated import generated_stream, small_backbone


class Linear:
    """A classifier of images (B, 2) that are their own features; without a bias."""

    def __init__(self, weight: list[list[float]]) -> None:
        self.head = nn.Linear(2, len(weight), bias=False)
        self.put(weight)

    def put(self, weight: list[list[float]]) -> None:
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(weight))

    def parts(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def logits(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.head(inputs.images)
        return logits


def linear(strategy: Strategy, weight: list[list[float]]) -> Strategy:
    """The strategy on a linear classifier."""
    held = Importance(keeps_path=strategy.keeps_path)
    vars(strategy).update(model=Linear(weight), held=held, seeds=Seeds(0), is_first_task=False)
    held.grow(flat(strategy.learning()).detach())
    return strategy


def feed(images: list[list[float]], labels: list[int]) -> Feed:
    """The images as a task hands them out."""
    numbers = np.arange(len(labels))
    samples = Samples(np.zeros((len(labels), 1, 1, 3), np.uint8), numbers, np.array(labels))

    def make(index: np.ndarray) -> Batch:
        batch = sight(torch.tensor(images)[torch.from_numpy(index)], [labels[i] for i in index])
        vars(batch)["plain"] = lambda: batch
        return batch

    return Feed(samples, 256, make)


TASK = Task(0, [0, 1], [0, 1], *[feed([[0.0, 0.0]], [0]).samples] * 3)


def test_fisher_information_by_hand() -> None:
    """At weights of 0 both probabilities are 1/2: the gradient of an image x is -x/2 and x/2.

    The squares of (1, 0) and (0, 2) are (1/4, 0) and (0, 1) in both rows, their means (1/8, 1/2).
    """
    strategy = linear(strategies.get("ewc")(), [[0.0, 0], [0, 0]])
    strategy.end_task(TASK, feed([[1.0, 0], [0, 2]], [0, 1]))
    assert strategy.held.importance.tolist() == [0.125, 0.5, 0.125, 0.5]
    assert strategy.held.anchor.tolist() == [0, 0, 0, 0]


def test_only_so_many_images_are_looked_at() -> None:
    strategy = linear(strategies.get("ewc")(importance_images=1), [[0.0, 0], [0, 0]])
    strategy.end_task(TASK, feed([[1.0, 0], [0, 2]], [0, 1]))
    assert strategy.held.importance.tolist() in ([0.25, 0, 0.25, 0], [0, 1, 0, 1])


def test_separate_penalties_sum_to_one_around_their_weighted_mean() -> None:
    """The pull of both tasks together is that of the two penalties, wherever the parameters are."""
    strategy = linear(strategies.get("ewc")(strength=1.0), [[0.0, 0], [0, 0]])
    penalties = []
    for number, weight in enumerate(([[1.0, -2], [0.5, 3]], [[-1.0, 0.5], [2, 1]])):
        strategy.model.put(weight)
        before = strategy.held.importance.clone()
        images = feed([[1.0, 0.5 + number], [0.25, 2]], [0, 1])
        strategy.end_task(TASK, images)
        penalties.append((strategy.held.importance - before, torch.tensor(weight).flatten()))
    where = torch.tensor([0.3, -0.7, 1.1, 0.2], requires_grad=True)
    (pull,) = torch.autograd.grad(strategy.held.penalty(where), where)
    expected = sum(2 * fisher * (where - anchor) for fisher, anchor in penalties)
    torch.testing.assert_close(pull, expected)


def test_online_penalty_is_renewed_and_its_past_decays() -> None:
    strategy = linear(strategies.get("ewc")(mode="online", decay=0.5), [[0.0, 0], [0, 0]])
    for _ in range(2):
        strategy.end_task(TASK, feed([[2.0, 0]], [0]))
    assert strategy.held.importance.tolist() == [1.5, 0, 1.5, 0]  # 0.5 * 1 + 1
    strategy.model.put([[5.0, 0], [5, 0]])  # probabilities of 1/2 again
    strategy.end_task(TASK, feed([[2.0, 0]], [0]))
    assert strategy.held.anchor.tolist() == [5, 0, 5, 0]


def test_sensitivity_of_the_output_by_hand() -> None:
    """Logits (1, -2) of the image (1, 2): d |z|^2 / dW is 2 z x^T = ((2, 4), (-4, -8))."""
    strategy = linear(strategies.get("mas")(), [[1.0, 0], [0, -1]])
    for factor in (1, 2):  # importances of tasks add up
        strategy.end_task(TASK, feed([[1.0, 2]], [0]))
        assert strategy.held.importance.tolist() == [2 * factor, 4 * factor, 4 * factor, 8 * factor]
    assert strategy.held.anchor.tolist() == [1, 0, 0, -1]


def test_contributions_along_the_path_by_hand() -> None:
    """Steps -1 and +1/2 at gradients 2 and -3: path 2 + 3/2, change -1/2, importance 3.5 / (1/4 + 1/4)."""
    strategy = linear(strategies.get("si")(damping=0.25), [[0.0, 0], [0, 0]])
    weight = strategy.model.head.weight
    for gradient, step in ((2.0, -1.0), (-3.0, 0.5)):
        weight.grad = torch.tensor([[gradient, 0], [0, 1]])
        strategy.before_update(sight(torch.zeros(1, 2)))
        with torch.no_grad():
            weight += torch.tensor([[step, 1], [0, 1]])
        strategy.after_step(sight(torch.zeros(1, 2)))
    assert strategy.held.path.tolist() == [3.5, 0, 0, -2]
    strategy.end_task(TASK, feed([[1.0, 0]], [0]))
    assert strategy.held.importance.tolist() == [7, 0, 0, 0]  # what raised the loss counts as 0
    assert strategy.held.anchor.tolist() == [-0.5, 2, 0, 2]
    assert not strategy.held.path.any()


def test_the_pull_does_not_count_as_a_contribution() -> None:
    """From the second task on the gradient noted is that of the cross-entropy alone."""
    strategy = linear(strategies.get("si")(strength=0.7), [[1.0, 2], [3, 4]])
    strategy.held.importance.copy_(torch.tensor([1.0, 2, 3, 4]))
    strategy.held.anchor.zero_()
    batch, weight = sight(torch.tensor([[0.5, -1.0]]), [1]), strategy.model.head.weight
    (weight.grad,) = torch.autograd.grad(strategy.loss(batch), weight)
    strategy.before_update(batch)
    (expected,) = torch.autograd.grad(strategy.cross_entropy(batch), weight)
    torch.testing.assert_close(strategy.gradient, expected.flatten())
    assert not torch.allclose(weight.grad, expected)


def test_parameters_that_are_new_are_free() -> None:
    held = Importance(keeps_path=True)
    held.grow(torch.tensor([1.0, 2]))
    held.importance.fill_(10)
    held.grow(torch.tensor([5.0, 5, 7]))
    assert held.anchor.tolist() == [1, 2, 7]
    assert held.importance.tolist() == [10, 10, 0]
    assert held.path.tolist() == [0, 0, 0]
    assert float(held.penalty(torch.tensor([2.0, 2, 100]))) == 10


@pytest.mark.parametrize("name", ["ewc", "si", "mas", "lwf"])
def test_the_first_task_is_learnt_without_a_pull(name: str) -> None:
    strategy = strategies.get(name)(strength=1000.0)
    strategy.setup(small_backbone(), petl.get("linear")(), Seeds(0))
    strategy.begin_task(generated_stream().tasks[0])
    with torch.no_grad():
        strategy.model.head.tasks[0].weight.zero_()
    loss = strategy.loss(sight(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), [0, 1]))
    assert float(loss.detach()) == pytest.approx(math.log(2))


# Learning without forgetting


def head_gradients(strategy: Strategy) -> list[Tensor]:
    """The gradients of both tasks' layers, on images of the second task."""
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers = [layer.weight for layer in strategy.model.head.tasks]
    return list(torch.autograd.grad(strategy.loss(sight(images, [2, 3, 2, 3], task=1)), layers))


def test_old_classes_are_distilled_and_new_ones_learnt_apart() -> None:
    gradients = {}
    for strength in (0.0, 5.0):
        strategy = strategies.get("lwf")(strength=strength)
        strategy.setup(small_backbone(), petl.get("linear")(), Seeds(0))
        for task in generated_stream().tasks:
            strategy.begin_task(task)
        old = strategy.model.head.tasks[0]
        same = head_gradients(strategy)
        assert same[0].abs().max() < 1e-6  # it still says of old classes what it said
        with torch.no_grad():
            old.weight += torch.rand(old.weight.shape, generator=torch.Generator().manual_seed(1))
        gradients[strength] = head_gradients(strategy)
    assert not gradients[0.0][0].any()  # the cross-entropy is among the new classes
    assert gradients[5.0][0].abs().max() > 1e-3
    assert torch.equal(gradients[0.0][1], gradients[5.0][1])


def test_the_old_network_is_asked_in_evaluation_mode() -> None:
    """With batch norm and the whole backbone trained: the old statistics stay, the new ones move."""
    backbone = backbones.create("slim-resnet18", BackboneOptions(weights="none"), seed=0)
    strategy = strategies.get("lwf")()
    strategy.setup(backbone, petl.get("full")(), Seeds(0))
    for task in generated_stream().tasks:
        strategy.begin_task(task)
    for part in strategy.parts().values():
        part.train(any(parameter.requires_grad for parameter in part.parameters()))
    module, _ = strategy.old
    old, new = ({n: b.clone() for n, b in each.named_buffers()} for each in (module, strategy.model.module))
    strategy.loss(sight(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), [2, 3, 2, 3]))
    assert all(torch.equal(value, old[name]) for name, value in module.named_buffers())
    assert not all(torch.equal(value, new[name]) for name, value in strategy.model.module.named_buffers())
    assert backbone.training
