"""TAER's worked example and invariants; its loss terms by themselves are in tests/learning/test_losses.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import strategies
from clbench.data.inputs import Batch
from clbench.learning.heads import GrowingHead
from clbench.options import SpecError, build
from clbench.strategies import Strategy
from clbench.streams import Task
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

VANILLA = {"detach_old": False, "replay_loss": "ce", "rebalance": "none"}


def taer(**options: object) -> Strategy:
    return strategies.get("taer")(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.1, **options})


def trial_of(strategy: Strategy, num_tasks: int = 3, module: str = "linear") -> Trial:
    return Trial(strategy, module, generated_stream(num_tasks), small_backbone(), is_exact=False)


def batch_of(trial: Trial, task: Task) -> Batch:
    """The first images of a task, as the loop shows them."""
    places, loop = slice(0, 8), trial.loop
    labels = torch.from_numpy(task.train.labels[places])
    return Batch(batcher=loop.batcher, rows=task.train.rows[places], labels=labels, task=task.index,
                 seeds=loop.seeds, position=(task.index, 0, 0))  # fmt: skip


def finished_then_begun(module: str = "linear", **options: object) -> tuple[Trial, Batch]:
    """A run of one task, with the second task begun, and a batch of it with replayed images."""
    strategy = taer(**options)
    trial = trial_of(strategy, module=module)
    trial.loop.stream.tasks[1:] = []
    trial.run()
    second = generated_stream(3).tasks[1]
    strategy.begin_task(second)
    return trial, strategy.before_step(batch_of(trial, second))


def old_gradient(strategy: Strategy, batch: Batch) -> list[Tensor | None]:
    strategy.head.zero_grad()
    strategy.loss(batch).backward()
    return [parameter.grad for parameter in strategy.head.tasks[0].parameters()]


def rows_after_each_task(**options: object) -> list[Tensor]:
    """The first task's rows of the classifier, as they are after each of three tasks."""
    trial = trial_of(taer(momentum=0.9, weight_decay=0.1, **options))
    rows: list[Tensor] = []
    trial.task_finished = lambda *_: rows.append(trial.strategy.head.tasks[0].weight.detach().clone())
    trial.run()
    return rows


def test_within_task_predictions_of_old_tasks_never_change() -> None:
    """The method's signature, in a run through the loop: with the task told, nothing is forgotten."""
    trial = trial_of(taer(learning_rate=0.03))
    trial.run()
    for task in (0, 1):
        logs = [trial.logs[after] for after in range(task, 3)]
        masked = [log["masked_prediction"][log["task"] == task].tolist() for log in logs]
        assert len(masked[0]) == 12
        assert all(each == masked[0] for each in masked)


def test_old_rows_stay_bit_for_bit_with_momentum_and_weight_decay() -> None:
    first, second, third = rows_after_each_task()
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_plain_replay_moves_the_old_rows() -> None:
    first, second, third = rows_after_each_task(**VANILLA)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_old_rows_get_no_gradient_unless_they_are_attached() -> None:
    trial, batch = finished_then_begun()
    assert old_gradient(trial.strategy, batch) == [None, None]
    trial, batch = finished_then_begun(**VANILLA)
    assert all(each is not None and each.abs().sum() > 0 for each in old_gradient(trial.strategy, batch))


def test_both_replay_losses_teach_the_new_rows_the_same() -> None:
    gradients = []
    for replay_loss in ("task", "ce"):
        trial, batch = finished_then_begun(replay_loss=replay_loss)
        trial.strategy.head.zero_grad()
        trial.strategy.loss(batch).backward()
        gradients.append(trial.strategy.head.tasks[1].weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)  # sums of float32 in another order
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize(("rebalance", "expected"), [(1.0, [-0.6, 0.4]), (2.0, [-0.4, 0.6])])
def test_loss_by_hand(rebalance: float, expected: list[float]) -> None:
    """Logits (0, ln 2; 0, 0); a new image of class 2, a replayed one of class 1: ln 5 + lambda ln(5/3)."""
    trial, batch = finished_then_begun(rebalance=rebalance)
    logits = torch.tensor([[0.0, 2.0, 0.0, 0.0]] * 2)
    logits[:, 1] = logits[:, 1].log()
    logits.requires_grad_()
    trial.strategy._logits = lambda _: logits
    batch.labels, batch.num_new = torch.tensor([2, 1]), 1
    loss = trial.strategy.loss(batch)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5) + rebalance * math.log(5 / 3), abs=1e-6)
    assert logits.grad[:, 2:].sum(dim=0).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("sizes", "expected"), [((2, 2, 2, 2), [0, 1, 2, 3]), ((10, 5), [0, 2])])
def test_lambda_is_old_classes_over_new_ones(sizes: tuple[int, ...], expected: list[float]) -> None:
    trial = trial_of(taer())
    weights = []
    for index, size in enumerate(sizes):
        example = trial.stream.tasks[0]
        task = Task(index, [], list(range(size)), example.train, example.validation, example.test)
        trial.strategy.begin_task(task)
        weights.append(trial.strategy.replay_weight)
    assert weights == expected


def test_lambda_is_prior_none_or_a_number() -> None:
    made = [build(strategies.get("taer"), "strategy", {"rebalance": each}) for each in ("none", "0.5", 3)]
    assert [each.replay_weight for each in made] == [1.0, 0.5, 3.0]
    for wrong in ("priors", "-1"):
        with pytest.raises(SpecError, match="rebalance"):
            build(strategies.get("taer"), "strategy", {"rebalance": wrong})


def test_first_task_is_plain_cross_entropy() -> None:
    trial = trial_of(taer())
    task = trial.stream.tasks[0]
    trial.strategy.begin_task(task)
    batch = trial.strategy.before_step(batch_of(trial, task))
    assert len(batch) == batch.num_new == 8
    features = trial.backbone(batch.plain().images)
    expected = F.cross_entropy(trial.strategy.head(features), batch.labels)
    assert torch.equal(trial.strategy.loss(batch), expected)


def test_a_tenth_of_a_vit_head_trains_7690_parameters() -> None:
    trial = trial_of(taer())
    trial.strategy.head = GrowingHead(768)
    example = trial.stream.tasks[0]
    for index in range(10):
        ten = Task(index, [], list(range(10)), example.train, example.validation, example.test)
        trial.strategy.begin_task(ten)
    trained = [parameter for group in trial.strategy.trainable() for parameter in group["params"]]
    assert sum(parameter.numel() for parameter in trained) == 7690
    assert sum(parameter.numel() for parameter in trial.strategy.head.parameters()) == 76_900


def test_replayed_images_are_as_many_as_new_ones_and_all_old() -> None:
    _, batch = finished_then_begun()
    assert (len(batch), batch.num_new) == (16, 8)
    assert batch.labels[8:].max() < 2 <= batch.labels[:8].min()


@pytest.mark.parametrize(("adapt", "is_trained"), [("first", False), ("every", True)])
def test_module_is_trained_on_the_first_task_or_on_all(adapt: str, is_trained: bool) -> None:
    trial = trial_of(taer(adapt=adapt, learning_rate=0.01), num_tasks=2, module="adapter")
    states: list[Tensor] = []
    trial.task_finished = lambda *_: states.append(
        torch.cat([parameter.detach().flatten() for parameter in trial.strategy.module.parameters()])
    )
    before = torch.cat([p.detach().flatten() for p in trial.strategy.module.parameters()])
    trial.run()
    assert not torch.equal(before, states[0])
    assert torch.equal(states[0], states[1]) is not is_trained


def test_detached_rows_still_teach_the_module() -> None:
    """The old rows are constants for the optimiser, but the gradient passes through them to the features."""
    trial, batch = finished_then_begun(adapt="every", module="adapter")
    trial.strategy.module.zero_grad()
    trial.strategy.head.tasks[0](batch.features(trial.backbone))[:, 0].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in trial.strategy.module.parameters())
