"""Strategies that live on what a memory holds: iCaRL, GDumb and supervised contrastive replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import petl, strategies
from clbench.data.inputs import Batch, Inputs
from clbench.errors import UserError
from clbench.learning.herding import herding
from clbench.learning.losses.supervised_contrastive import supervised_contrastive
from clbench.records.resolving import resolve
from clbench.strategies import Strategy
from clbench.streams import Task
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial


def made(name: str, **options: object) -> Strategy:
    return strategies.get(name)(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.01, **options})


def trial_of(strategy: Strategy, module: str = "adapter", num_tasks: int = 2) -> Trial:
    return Trial(strategy, module, generated_stream(num_tasks), small_backbone(), is_exact=False)


def batch_of(trial: Trial, task: Task, count: int = 8) -> Batch:
    """The first images of a task, as the loop shows them."""
    labels = torch.from_numpy(task.train.labels[:count])
    return Batch(batcher=trial.loop.batcher, rows=task.train.rows[:count], labels=labels, task=task.index,
                 seeds=trial.loop.seeds, position=(task.index, 0, 0))  # fmt: skip


def units(trial: Trial, rows: np.ndarray) -> Tensor:
    """The unit features of these images as the backbone sees them now."""
    inputs = Inputs(batcher=trial.loop.batcher, rows=rows)
    with torch.no_grad():
        return F.normalize(trial.backbone(inputs.images), dim=1)


# iCaRL


def test_exemplars_are_the_first_of_their_ranking_and_old_ones_are_cut_down() -> None:
    """16 places: 8 for each of two classes, then the first 4 of these and 4 for each of two new ones."""
    trial = trial_of(made("icarl", memory_size=16))
    rows: list[list[list[int]]] = []

    def look(task: int, _: object) -> None:
        memory, classes = trial.strategy.memory, range(2 * task + 2)
        rows.append([memory.rows[: len(memory)][memory.labels[: len(memory)] == c].tolist() for c in classes])
        newest = trial.stream.tasks[task].train
        for number in trial.stream.tasks[task].classes:
            own = newest.rows[newest.labels == number]
            ranking = herding(units(trial, own), 16 // len(classes))
            assert rows[task][number] == own[ranking].tolist()

    trial.task_finished = look
    trial.run()
    assert [len(each) for each in rows[0]] == [8, 8]
    assert [len(each) for each in rows[1]] == [4, 4, 4, 4]
    assert [rows[1][c] for c in (0, 1)] == [rows[0][c][:4] for c in (0, 1)]


def test_icarl_trains_on_new_images_and_exemplars() -> None:
    trial = trial_of(made("icarl", memory_size=16))
    trial.run()
    first, second = trial.stream.tasks
    samples = trial.strategy.training_samples([first, second], 2)
    memory = trial.strategy.memory
    assert samples.rows.tolist() == [*second.train.rows, *memory.rows.tolist()]
    assert samples.labels.tolist() == [*second.train.labels, *memory.labels.tolist()]


def test_icarl_predicts_the_nearest_exemplar_mean() -> None:
    trial = trial_of(made("icarl", memory_size=16))
    trial.run()
    memory, test = trial.strategy.memory, trial.stream.tasks[0].test.rows
    means = torch.stack([units(trial, memory.rows[memory.labels == c].numpy()).mean(dim=0) for c in range(4)])
    nearest = torch.cdist(units(trial, test), F.normalize(means, dim=1)).argmin(dim=1)
    scores = trial.strategy.predict(Inputs(batcher=trial.loop.batcher, rows=test))
    assert torch.equal(scores.argmax(dim=1), nearest)


def second_task_begun(**options: object) -> tuple[Trial, Batch]:
    """The second task begun after the first was learnt, and the network moved since."""
    trial = trial_of(made("icarl", memory_size=16, **options), num_tasks=2)
    second = trial.stream.tasks.pop()
    trial.run()
    trial.strategy.begin_task(second)
    with torch.no_grad():
        for parameter in trial.strategy.module.parameters():
            parameter.add_(0.05)
    return trial, batch_of(trial, second)


def test_icarl_loss_is_new_labels_and_old_answers() -> None:
    """Sigmoids: the old classes' targets are what the network said before the task."""
    trial, batch = second_task_begun()
    strategy = trial.strategy
    now = strategy.head(trial.backbone(batch.images))
    strategy.module.enabled, strategy.old_module.enabled = False, True
    before = strategy.old_head(trial.backbone(batch.images)).detach()
    strategy.old_module.enabled, strategy.module.enabled = False, True
    assert before.shape == (8, 2)
    assert not torch.allclose(before, now[:, :2], atol=1e-3)
    target = torch.cat([before.sigmoid(), F.one_hot(batch.labels - 2, 2)], dim=1)
    chance = now.sigmoid()
    by_hand = -(target * chance.log() + (1 - target) * (1 - chance).log()).sum(dim=1).mean()
    torch.testing.assert_close(strategy.loss(batch), by_hand, rtol=1e-5, atol=0)


def test_icarl_with_cross_entropy_distils_a_softmax() -> None:
    trial, batch = second_task_begun(loss_form="ce")
    strategy = trial.strategy
    now = strategy.head(trial.backbone(batch.images))
    strategy.module.enabled, strategy.old_module.enabled = False, True
    before = strategy.old_head(trial.backbone(batch.images)).detach()
    strategy.old_module.enabled, strategy.module.enabled = False, True
    kept = F.kl_div((now[:, :2] / 2).log_softmax(1), (before / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(strategy.loss(batch), F.cross_entropy(now, batch.labels) + kept)


def test_the_old_network_does_not_learn() -> None:
    trial, batch = second_task_begun()
    strategy = trial.strategy
    strategy.loss(batch).backward()
    old = [*strategy.old_module.parameters(), *strategy.old_head.parameters()]
    assert old
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in old)


def test_a_trained_backbone_is_in_the_mode_of_the_module_that_is_on() -> None:
    """An old copy, at rest, is asked while the new one learns: no batch norm may take one for the other."""
    backbone = small_backbone()
    learning = petl.get("full")().attach(backbone, torch.Generator())
    resting = learning.copy()
    learning.train()
    resting.eval()
    assert backbone.training
    learning.enabled, resting.enabled = False, True
    assert not backbone.training
    resting.enabled, learning.enabled = False, True
    assert backbone.training


def test_a_memory_too_small_for_one_exemplar_a_class_is_refused() -> None:
    with pytest.raises(UserError, match="memory_size: 3 leaves no exemplar for each of 4 classes"):
        trial_of(made("icarl", memory_size=3)).run()


# GDumb


def test_gdumb_holds_equal_shares_and_trains_on_them_alone() -> None:
    trial = trial_of(made("gdumb", memory_size=20))
    trial.run()
    memory = trial.strategy.memory
    assert memory.labels.bincount().tolist() == [5, 5, 5, 5]
    samples = trial.strategy.training_samples(trial.stream.tasks, 2)
    assert samples.rows.tolist() == memory.rows.tolist()
    assert samples.labels.tolist() == memory.labels.tolist()
    assert len(trial.losses) == 2 * (20 // 8 + 20 // 8)


def test_gdumb_starts_afresh_for_each_training() -> None:
    """However long it trained after the first task, the second training ends the same."""
    ends = []
    for first_epochs in (1, 3):
        trial = trial_of(made("gdumb", memory_size=20))
        trial.strategy.num_epochs = lambda index, count=first_epochs: count if index == 0 else 2
        trial.run()
        ends.append(
            [
                parameter.detach()
                for part in trial.strategy.parts().values()
                for parameter in part.parameters()
            ]
        )
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_gdumb_passes_over_its_memory_often_where_images_come_once() -> None:
    online = resolve({"strategy": {"name": "gdumb"}, "stream": {"online": 10}})
    assert (online.strategy.options["epochs"], online.strategy.options["memory_epochs"]) == (1, 30)
    assert made("gdumb", epochs=1, memory_epochs=30).num_epochs(0) == 30
    assert made("gdumb").num_epochs(0) == 2


# Supervised contrastive replay


def test_scr_contrasts_two_views_of_new_and_replayed_images() -> None:
    trial = trial_of(made("scr", replay_batch=5))
    task = trial.stream.tasks[0]
    trial.strategy.begin_task(task)
    batch = batch_of(trial, task)
    trial.strategy.memory.reservoir(batch.new(), torch.Generator().manual_seed(0))
    both = trial.strategy.before_step(batch)
    assert len(both) == 13
    views = torch.cat([both.plain().images, both.images])
    projected = trial.strategy.projector(trial.backbone(views))
    expected = supervised_contrastive(projected, both.labels.repeat(2), temperature=0.07)
    torch.testing.assert_close(trial.strategy.loss(both), expected)


def test_scr_replays_a_hundred_images_a_step() -> None:
    """With ten it is far below its figures."""
    online = resolve({"strategy": {"name": "scr"}, "stream": {"online": 10}, "petl": {"name": "full"}})
    options = online.strategy.options
    assert (options["replay_batch"], options["batch_size"], options["learning_rate"]) == (100, 10, 0.1)


def test_scr_resumes_bit_for_bit_with_replayed_images(tmp_path) -> None:
    whole = trial_of(made("scr", replay_batch=6, memory_size=20))
    whole.run()
    stopped = trial_of(made("scr", replay_batch=6, memory_size=20))
    stopped.run_keeping({whole.num_saved // 2: tmp_path})
    resumed = trial_of(made("scr", replay_batch=6, memory_size=20))
    resumed.resume(tmp_path)
    whole.check_equal(resumed, "a resumed run")
    assert len(whole.strategy.memory) == 20
