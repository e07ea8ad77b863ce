"""LAE's worked examples and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.data.inputs import Batch, sight
from clbench.data.samples import Samples
from clbench.petl import Petl
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import Task

EMPTY = Samples(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))


class Shift(Branch):
    """Add a learnable vector: the smallest module there is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return output + self.vector


class ShiftPetl(Petl):
    def branches(self, backbone: Backbone, generator: torch.Generator):
        yield backbone.site("block[0]"), Shift(backbone.width)


class Encoder(nn.Module):
    """A network of one layer, called as timm's are."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.site(images)

    def forward_head(self, maps: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return maps


def identity_backbone(width: int) -> Backbone:
    """A backbone whose features are its input."""
    layer = nn.Linear(width, width, bias=False)
    nn.init.eye_(layer.weight)
    site = Site("block[0]", layer.requires_grad_(False), width)
    return Backbone(
        "identity",
        Encoder(site),
        width=width,
        blocks=[BlockSites(0, width, 0, {"": site})],
        grid=None,
        sites={},
        memory_format=torch.contiguous_format,
        preprocessing=Preprocessing(1, (0.0,), (1.0,), 1.0, "bilinear"),
        weights_source="made up",
        weights_digest="",
    )


NO_BATCH = sight(torch.zeros(0, 1), [])


def task(index: int, classes: list[int]) -> Task:
    return Task(index, classes, classes, EMPTY, EMPTY, EMPTY)


def lae(width: int, **options: object) -> Strategy:
    strategy = strategies.get("lae")(**options)
    strategy.setup(identity_backbone(width), ShiftPetl(), Seeds(0))
    return strategy


def identity_head(strategy: Strategy, num_classes: int) -> None:
    """Make the logits equal to the features."""
    weights = torch.eye(num_classes).split([head.out_features for head in strategy.head.tasks])
    for head, weight in zip(strategy.head.tasks, weights, strict=True):
        head.weight.data.copy_(weight)


def batch(images: torch.Tensor, labels: list[int], index: int) -> Batch:
    return sight(images, labels, index)


def test_local_cross_entropy_counts_the_current_classes_only():
    strategy = lae(4)
    strategy.begin_task(task(0, [0, 1]))
    strategy.begin_task(task(1, [2, 3]))
    identity_head(strategy, 4)
    images = torch.tensor([[9.0, 9.0, 1.0, 2.0]], requires_grad=True)
    loss = strategy.loss(batch(images, [3], 1))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)  # 0.31326
    assert images.grad is not None
    assert images.grad[0, :2].tolist() == [0.0, 0.0]


def test_offline_module_is_the_moving_average_of_the_online_one():
    strategy = lae(1, ema_decay=0.75)
    strategy.begin_task(task(0, [0]))
    strategy.online.branches[0].vector.data.fill_(4.0)
    strategy.begin_task(task(1, [1]))
    strategy.online.branches[0].vector.data.fill_(8.0)
    strategy.after_step(NO_BATCH)
    assert strategy.offline.branches[0].vector.item() == 5.0


def test_a_cifar_task_keeps_nine_tenths_of_the_offline_module():
    strategy = lae(1)
    strategy.begin_task(task(0, [0]))
    strategy.online.branches[0].vector.data.fill_(1.0)
    strategy.begin_task(task(1, [1]))
    strategy.online.branches[0].vector.data.zero_()
    for _ in range(208 * 5):
        strategy.after_step(NO_BATCH)
    # float32 rounds each of the 1,040 products: 1e-4 leaves room for that
    assert strategy.offline.branches[0].vector.item() == pytest.approx(0.9012, abs=1e-4)


def test_prediction_takes_the_larger_probability_of_the_two_modules():
    strategy = lae(3)
    strategy.begin_task(task(0, [0]))
    strategy.begin_task(task(1, [1, 2]))
    identity_head(strategy, 3)
    online, offline = torch.tensor([0.6, 0.3, 0.1]).log(), torch.tensor([0.2, 0.1, 0.7]).log()
    strategy.online.branches[0].vector.data.copy_(online)
    strategy.offline.branches[0].vector.data.copy_(offline)
    scores = strategy.predict(sight(torch.zeros(1, 3)))
    torch.testing.assert_close(scores, torch.tensor([[0.6, 0.3, 0.7]]))
    assert scores.argmax().item() == 2


def test_the_first_task_is_predicted_by_the_online_module_alone():
    strategy = lae(2)
    strategy.begin_task(task(0, [0, 1]))
    identity_head(strategy, 2)
    assert "petl offline" not in strategy.parts()
    torch.testing.assert_close(strategy.predict(sight(torch.zeros(1, 2))), torch.tensor([[0.5, 0.5]]))


def test_the_offline_module_starts_as_a_copy_of_what_the_first_task_taught():
    strategy = lae(2)
    strategy.begin_task(task(0, [0, 1]))
    strategy.online.branches[0].vector.data.copy_(torch.tensor([3.0, -1.0]))
    strategy.begin_task(task(1, [2]))
    assert strategy.offline.branches[0].vector.tolist() == [3.0, -1.0]
    assert not any(parameter.requires_grad for parameter in strategy.offline.parameters())


def test_frozen_epochs_leave_the_online_module_alone_while_the_offline_one_moves():
    strategy = lae(2, frozen_epochs=1, ema_decay=0.5)
    strategy.begin_task(task(0, [0]))
    strategy.online.branches[0].vector.data.fill_(1.0)
    strategy.begin_task(task(1, [1, 2]))
    strategy.offline.branches[0].vector.data.zero_()
    optimizer = torch.optim.Adam(strategy.trainable(), lr=0.1)
    old_head = strategy.head.tasks[0].weight.clone()
    new_head = strategy.head.tasks[1].weight.clone()
    for epoch, moves in ((0, False), (1, True)):
        before = strategy.online.branches[0].vector.clone()
        strategy.begin_epoch(epoch)
        optimizer.zero_grad()
        strategy.loss(batch(torch.eye(2), [1, 2], 1)).backward()
        optimizer.step()
        strategy.after_step(NO_BATCH)
        assert torch.equal(strategy.online.branches[0].vector, before) != moves
    assert strategy.offline.branches[0].vector.mean() > 0
    assert torch.equal(strategy.head.tasks[0].weight, old_head)
    assert not torch.equal(strategy.head.tasks[1].weight, new_head)


def test_the_first_task_never_freezes():
    strategy = lae(2)
    strategy.begin_task(task(0, [0, 1]))
    strategy.begin_epoch(0)
    assert all(parameter.requires_grad for parameter in strategy.online.parameters())


def test_the_recipe_of_imagenet_r_is_the_papers():
    recipe = strategies.get("lae").recipes["split-imagenet-r"]
    assert recipe == {"epochs": 50, "frozen_epochs": 30, "learning_rate": 0.005 * 24 / 256}
    assert strategies.get("lae").learning_rate == 0.03 * 24 / 256


@pytest.mark.parametrize("module", petl.names())
def test_every_combination_with_a_module_resolves(module: str):
    assert strategies.split(f"lae-{module}") == ("lae", module)


def two_modules(**options: object) -> Strategy:
    """Two classes; the logits of the online module are (2, 0), of the offline one (0, 1)."""
    strategy = lae(2, **options)
    strategy.begin_task(task(0, [0]))
    strategy.begin_task(task(1, [1]))
    identity_head(strategy, 2)
    strategy.online.branches[0].vector.data.copy_(torch.tensor([2.0, 0.0]))
    strategy.offline.branches[0].vector.data.copy_(torch.tensor([0.0, 1.0]))
    return strategy


def test_the_mean_ensemble_averages_the_probabilities():
    scores = two_modules(ensemble="mean").predict(sight(torch.zeros(1, 2)))
    softmax = [torch.tensor(logits).softmax(0) for logits in ([2.0, 0.0], [0.0, 1.0])]
    torch.testing.assert_close(scores[0], (softmax[0] + softmax[1]) / 2)


def test_the_evidential_ensemble_follows_dempsters_rule_and_reports_the_conflict():
    strategy = two_modules(ensemble="evidential")
    scores = strategy.predict(sight(torch.zeros(1, 2)))
    online, offline = (F.softplus(torch.tensor(logits)) for logits in ([2.0, 0.0], [0.0, 1.0]))
    fused = online + offline + online * offline / 2  # K = 2
    torch.testing.assert_close(scores[0], (fused + 1) / (fused.sum() + 2))
    own, other = online / (online.sum() + 2), offline / (offline.sum() + 2)  # beliefs
    assert strategy.notes()["conflict"] == pytest.approx(
        float(own[0] * other[1] + own[1] * other[0]), abs=1e-6
    )


def test_images_in_conflict_get_the_average_instead():
    strategy = two_modules(ensemble="evidential", conflict_limit=0.0)
    scores = strategy.predict(sight(torch.zeros(1, 2)))
    online, offline = (F.softplus(torch.tensor(logits)) for logits in ([2.0, 0.0], [0.0, 1.0]))
    average = (online + offline) / 2
    torch.testing.assert_close(scores[0], (average + 1) / (average.sum() + 2))
