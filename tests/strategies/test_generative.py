"""The generative strategy's invariants, and those of classifiers that are fitted to a memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from clbench import strategies
from clbench.data.inputs import Batch, Inputs
from clbench.learning.losses.multi_similarity import multi_similarity
from clbench.learning.losses.proxy_nca import proxy_nca
from clbench.learning.memory_means import (
    ABSENT,
    LinearDiscriminant,
    MovingMeans,
    NearestMean,
    shrunk_covariance,
)
from clbench.runs.modes import evaluation_mode
from clbench.strategies import Strategy
from clbench.streams import Task
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generative(**options: object) -> Strategy:
    return strategies.get("generative")(**{"batch_size": 8, "memory_size": 12, **options})


def trial_of(strategy: Strategy, module: str = "adapter", **options: object) -> Trial:
    stream = dataclasses.replace(generated_stream(), **options)
    return Trial(strategy, module, stream, small_backbone(), is_exact=False)


def batch_of(trial: Trial, task: Task, count: int = 8) -> Batch:
    """The first images of a task, as the loop shows them."""
    labels = torch.from_numpy(task.train.labels[:count])
    return Batch(batcher=trial.loop.batcher, rows=task.train.rows[:count], labels=labels, task=task.index,
                 seeds=trial.loop.seeds, position=(task.index, 0, 0))  # fmt: skip


def inputs_of_all(trial: Trial) -> Inputs:
    rows = np.concatenate([task.test.rows for task in trial.stream.tasks])
    return Inputs(batcher=trial.loop.batcher, rows=rows)


def scores_by_hand(trial: Trial, inputs: Inputs, num_classes: int) -> Tensor:
    """Cosines to the means of all that the memory holds, one forward pass for each image."""
    memory, backbone = trial.strategy.memory, trial.backbone
    held = trial.loop.batcher.plain(memory.items[: len(memory)])
    embedding = torch.cat([F.normalize(backbone(image[None]), dim=1) for image in held])
    means = torch.zeros(num_classes, embedding.shape[1])
    for number in memory.labels[: len(memory)].unique().tolist():
        means[number] = F.normalize(embedding[memory.labels[: len(memory)] == number].mean(dim=0), dim=0)
    cosines = F.normalize(backbone(inputs.images), dim=1) @ means.T
    return cosines.masked_fill(means.abs().sum(dim=1) == 0, ABSENT)


# The classifier


@pytest.mark.parametrize("module", ["adapter", "full"])
def test_means_are_those_of_the_encoder_as_it_is_after_any_step(module: str) -> None:
    """Asked after every step, in the middle of a task, and with an evaluation in between."""
    trial = trial_of(generative(learning_rate=0.02), module)
    seen: list[Tensor] = []

    def look(*_: object) -> None:
        evaluation_mode(trial.strategy)
        inputs, num_classes = inputs_of_all(trial), len(trial.strategy.proxies.known)
        with torch.inference_mode():
            scores = trial.strategy.predict(inputs)
            expected = scores_by_hand(trial, inputs, num_classes)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
        seen.append(scores)

    trial.step_done = look
    trial.run()
    assert len(seen) == 6
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))


def test_largest_cosine_is_the_smallest_distance_to_the_mean() -> None:
    embedding, labels = F.normalize(normal(60, 8), dim=1), torch.arange(60) % 5
    points = F.normalize(normal(40, 8, seed=1), dim=1)
    means = torch.stack([F.normalize(embedding[labels == c].mean(dim=0), dim=0) for c in range(5)])
    nearest = torch.cdist(points, means).argmin(dim=1)
    assert torch.equal(NearestMean(embedding, labels, 5)(points).argmax(dim=1), nearest)


@pytest.mark.parametrize("fit", [NearestMean, LinearDiscriminant])
def test_classes_absent_from_the_memory_are_never_predicted(fit: Callable) -> None:
    """Also where the point is opposite to every mean; with no image at all no class is preferred."""
    embedding, labels = F.normalize(normal(60, 8), dim=1), 1 + 2 * (torch.arange(60) % 3)  # 1, 3, 5 of 7
    points = F.normalize(torch.cat([normal(200, 8, seed=1), -embedding]), dim=1)
    scores = fit(embedding, labels, 7)(points)
    assert set(scores.argmax(dim=1).tolist()) <= {1, 3, 5}
    assert scores[:, [1, 3, 5]].amin(dim=1).gt(scores[:, [0, 2, 4, 6]].amax(dim=1)).all()
    nothing = fit(embedding[:0], labels[:0], 7)(points)
    assert nothing.shape == (260, 7)
    assert nothing.isfinite().all()
    assert (nothing == nothing[0, 0]).all()


def test_a_point_opposite_to_the_only_mean_is_still_of_that_class() -> None:
    one = F.normalize(normal(1, 8), dim=1)
    assert NearestMean(one, torch.tensor([3]), 5)(-one).argmax(dim=1).tolist() == [3]


def test_without_the_newest_class_no_other_score_changes() -> None:
    """No bias term ties the classes to each other."""
    embedding, labels = F.normalize(normal(60, 8), dim=1), torch.arange(60) % 5
    points = F.normalize(normal(40, 8, seed=1), dim=1)
    whole = NearestMean(embedding, labels, 5)(points)
    less = NearestMean(embedding[labels < 4], labels[labels < 4], 4)(points)
    torch.testing.assert_close(less, whole[:, :4], rtol=0, atol=1e-6)


def test_a_softmax_lowers_absent_classes_where_class_means_do_not() -> None:
    """One step on a batch of new classes lowers the logits of the old ones at its (positive) features."""
    features, labels = normal(8, 6).abs(), torch.tensor([2, 3] * 4)
    weight = normal(4, 6, seed=1).requires_grad_()
    F.cross_entropy(features @ weight.T, labels).backward()
    after = features @ (weight - 0.1 * weight.grad).T
    assert ((features @ weight.T)[:, :2] > after[:, :2]).all()
    old, points = F.normalize(normal(6, 6, seed=2), dim=1), F.normalize(features, dim=1)
    before = NearestMean(old, torch.tensor([0, 1] * 3), 4)(points)
    both = torch.cat([old, points]), torch.cat([torch.tensor([0, 1] * 3), labels])
    torch.testing.assert_close(NearestMean(*both, 4)(points)[:, :2], before[:, :2], rtol=0, atol=1e-6)


def test_linear_discriminant_is_the_posterior_of_gaussians() -> None:
    embedding, labels = F.normalize(normal(60, 4), dim=1), torch.arange(60) % 3
    points = F.normalize(normal(5, 4, seed=1), dim=1)
    means = torch.stack([embedding[labels == c].mean(dim=0) for c in range(3)]).double()
    covariance = shrunk_covariance(embedding.double() - means[labels])
    density = [stats.multivariate_normal(mean, covariance).pdf(points) for mean in means]
    posterior = torch.tensor(np.array(density)).T
    posterior /= posterior.sum(dim=1, keepdim=True)
    scores = LinearDiscriminant(embedding, labels, 3)(points)
    torch.testing.assert_close(scores.double(), posterior, rtol=1e-5, atol=1e-6)


def test_shrunk_covariance_by_hand() -> None:
    """Four vectors of covariance diag(2, 0): the share of the sphere is 2^2 / (4 (4 - 2^2 / 2)) = 1/2."""
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 2).double() * 2**0.5
    expected = torch.tensor([[1.5, 0.0], [0.0, 0.5]]).double()
    torch.testing.assert_close(shrunk_covariance(vectors), expected, rtol=0, atol=1e-5)


def test_equal_vectors_have_a_covariance_that_can_be_inverted() -> None:
    assert torch.linalg.cholesky(shrunk_covariance(torch.zeros(5, 4).double())).isfinite().all()


def test_moving_means_by_hand() -> None:
    """The first mean is taken as it is; then nine tenths of (1, 0) and one tenth of (0, 1)."""
    means = MovingMeans(width=2, decay=0.9)
    means.grow(3, torch.device("cpu"))
    means.add(torch.tensor([[3.0, 0.0], [5.0, 0.0]]), torch.tensor([1, 1]))
    assert means.means.tolist() == [[0, 0], [1, 0], [0, 0]]
    means.add(torch.tensor([[0.0, 7.0], [0.0, 1.0]]), torch.tensor([1, 2]))
    torch.testing.assert_close(means.means, torch.tensor([[0, 0], [0.9, 0.1], [0, 1.0]]))
    assert means.is_met.tolist() == [False, True, True]


# The training


def test_gamma_zero_is_multi_similarity_alone_and_gamma_adds_proxies() -> None:
    trial = trial_of(generative(gamma=0.5))
    task = trial.stream.tasks[0]
    trial.strategy.begin_task(task)
    batch = batch_of(trial, task, count=24)
    features = trial.backbone(batch.plain().images)
    pairs = multi_similarity(features, batch.labels)
    proxies = proxy_nca(features, batch.labels, trial.strategy.proxies.directions(), scale=16.0)
    torch.testing.assert_close(trial.strategy.loss(batch), pairs + 0.5 * proxies)
    trial.strategy.gamma = 0.0
    torch.testing.assert_close(trial.strategy.loss(batch), pairs)


def test_proxies_of_classes_that_have_not_come_do_not_compete() -> None:
    """Class 1 may come in the first task but is not in the batch: its proxy is left alone until it is met."""
    trial = trial_of(generative())
    task = trial.stream.tasks[0]
    trial.strategy.begin_task(task)
    batch = batch_of(trial, task)  # the first eight are of class 0
    assert batch.labels.tolist() == [0] * 8
    trial.strategy.loss(batch).backward()
    assert trial.strategy.proxies.tasks[0].grad[1].tolist() == [0.0] * 32
    trial.strategy.after_step(batch)
    assert trial.strategy.proxies.known.tolist() == [True, False]


def test_proxies_are_unit_vectors_that_stay_the_optimisers_when_more_come() -> None:
    trial = trial_of(generative())
    trial.strategy.begin_task(trial.stream.tasks[0])
    first = trial.strategy.proxies.tasks[0]
    trial.strategy.begin_task(trial.stream.tasks[1])
    assert trial.strategy.proxies.tasks[0] is first
    directions = trial.strategy.proxies.directions()
    assert directions.shape == (4, 32)  # D for each class, in training alone
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(4))


def test_predictions_do_not_feel_the_proxies() -> None:
    trial = trial_of(generative())
    trial.run()
    inputs = inputs_of_all(trial)
    before = trial.strategy.predict(inputs)
    with torch.no_grad():
        trial.strategy.proxies.tasks[1].add_(100)
    trial.strategy.means.forget()
    assert torch.equal(trial.strategy.predict(inputs), before)


def test_as_many_images_are_replayed_as_are_new_once_there_is_a_memory() -> None:
    trial = trial_of(generative())
    task = trial.stream.tasks[0]
    trial.strategy.begin_task(task)
    batch = batch_of(trial, task)
    assert len(trial.strategy.before_step(batch)) == 8
    trial.strategy.loss(batch)
    trial.strategy.after_step(batch)
    assert len(trial.strategy.before_step(batch)) == 16
    assert len(trial.strategy.memory) == 8


def test_updates_on_a_batch_draw_other_images_and_store_the_new_ones_once() -> None:
    trial = trial_of(generative(num_updates=3))
    drawn: list[list[int]] = []
    compose = trial.strategy.before_step

    def before_step(batch: Batch) -> Batch:
        composed = compose(batch)
        drawn.append(composed.rows[8:].tolist())
        return composed

    trial.strategy.before_step = before_step
    trial.run()
    assert trial.strategy.memory.num_seen == 48
    steps = [rows for rows in drawn if rows][-3:]  # of the last batch
    assert len(set(map(tuple, steps))) == 3
    assert len(trial.losses) == 6


def test_a_stream_without_boundaries_is_learnt_like_one_with_them() -> None:
    """What is told of a segment, the classes that may come, changes nothing that is learnt."""
    told, untold = trial_of(generative()), trial_of(generative(), has_boundaries=False)
    told.run()
    untold.run()
    assert told.losses[:3] == untold.losses[:3]
    assert untold.strategy.memory.num_seen == 48


@pytest.mark.parametrize("augment", ["none", "replayed", "all"])
def test_chosen_images_are_augmented(augment: str) -> None:
    trial = trial_of(generative(augment=augment), module="linear")
    trial.loop.batcher = type(trial.loop.batcher)(
        trial.loop.batcher.images, trial.backbone.preprocessing, "rrc-flip", torch.device("cpu")
    )
    task = trial.stream.tasks[0]
    trial.strategy.begin_task(task)
    batch = batch_of(trial, task)
    trial.strategy.memory.reservoir(batch.new(), torch.Generator().manual_seed(0))
    both = trial.strategy.before_step(batch)
    changed = (trial.strategy._features(both) - trial.backbone(both.plain().images)).abs().amax(dim=1) > 1e-4
    expected = {"none": [False] * 16, "replayed": [False] * 8 + [True] * 8, "all": [True] * 16}
    assert changed.tolist() == expected[augment]


@pytest.mark.parametrize("options", [{"classifier": "lda"}, {"classifier": "ncm_running", "miner": "ms"}])
def test_other_classifiers_learn_the_generated_stream(options: dict[str, str]) -> None:
    trial = trial_of(generative(epochs=4, learning_rate=0.01, memory_size=40, **options))
    trial.run()
    log = trial.logs[1]
    assert np.mean(log["prediction"] == log["label"]) > 0.6  # chance is a quarter
