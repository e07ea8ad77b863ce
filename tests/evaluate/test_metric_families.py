"""Show that the metrics beyond the accuracy matrix are their formulas: worked examples and invariants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clbench.evaluate import METRICS, Results, compute
from clbench.evaluate.digest import digest
from clbench.evaluate.metrics.representation import debiased_cka, linear_cka, representation_drift
from clbench.evaluate.reliability import NUM_BINS, Reliability
from clbench.evaluate.representations import Representations

NAN = float("nan")
GOLDEN = [[0.90], [0.70, 0.90], [0.60, 0.50, 0.90], [0.55, 0.40, 0.30, 0.90]]
IMPROVING = [[0.50], [0.60, 0.80], [0.70, 0.85, 0.90]]


def matrix_of(rows: list[list[float]], **more: Any) -> Results:
    accuracy = np.full((len(rows), len(rows)), NAN)
    for index, row in enumerate(rows):
        accuracy[index, : len(row)] = row
    return Results(accuracy, accuracy, np.full(len(rows), 100), **more)


def value(name: str, results: Results, joint: Results | None = None) -> float:
    return METRICS[name](results, joint)


def draw_shares(num_images: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.softmax(2 * torch.randn(num_images, num_classes, generator=generator), dim=1)
    return shares, torch.randint(num_classes, (num_images,), generator=generator)


def log_of(shares: torch.Tensor, labels: torch.Tensor, came_in: torch.Tensor, after: int) -> dict[str, Any]:
    """The log of an evaluation after task ``after`` of images whose task is that of their label's class."""
    task = came_in[labels]
    own = task[:, None] == came_in
    names = ("prediction", "masked_prediction", "confidence", "label_score", "sum_squares")
    digested = digest(shares, labels, shares_BC=shares, own_BC=own, came_in_C=came_in, newest=after)
    columns = dict(zip((*names, "old_score", "new_score", "beaten_in"), digested.numpy(), strict=True))
    same = {"after_task": np.full(len(labels), after), "task": task.numpy(), "label": labels.numpy()}
    return {**same, "row": np.arange(len(labels)), **columns}


# What is left of the accuracy matrix


@pytest.mark.parametrize(
    ("rows", "name", "expected"),
    [
        (GOLDEN, "forgetting-relative", (0.35 + 0.50 + 0.60) / 0.90 / 3),
        (IMPROVING, "forgetting-relative", ((0.60 - 0.70) / 0.60 + (0.80 - 0.85) / 0.80) / 2),
        (GOLDEN, "bwt-positive", 0.0),
        (GOLDEN, "remembering", 1 - 0.39167),
        (IMPROVING, "bwt-positive", (0.10 + 0.20 + 0.05) / 3),
        (IMPROVING, "remembering", 1.0),
    ],
)
def test_worked_examples_come_out(rows: list[list[float]], name: str, expected: float) -> None:
    assert value(name, matrix_of(rows)) == pytest.approx(expected, abs=1e-5)


def test_relative_forgetting_leaves_out_a_task_that_was_never_right() -> None:
    rows = [[0.0], [0.0, 0.8], [0.0, 0.4, 0.9]]
    assert value("forgetting-relative", matrix_of(rows)) == pytest.approx(0.5)


def test_mean_class_accuracy_weighs_classes_then_steps() -> None:
    by_class = np.array([[1.0, 0.5, NAN], [0.5, 0.25, 0.75]])
    results = matrix_of([[0.7], [0.4, 0.75]], class_accuracy=by_class)
    assert value("amca", results) == pytest.approx((0.75 + 0.5) / 2)


# Transfer


def test_forward_transfer_is_what_is_above_an_untrained_learner() -> None:
    results = Results(
        np.array([[0.9, 0.3, 0.2], [0.8, 0.9, 0.6], [0.7, 0.8, 0.9]]),
        np.full((3, 3), NAN),
        np.full(3, 100),
        untrained=np.array([0.1, 0.1, 0.2]),
    )
    assert value("fwt", results) == pytest.approx(((0.3 - 0.1) + (0.6 - 0.2)) / 2)
    assert np.isnan(value("fwt", replace(results, untrained=None)))


def test_rows_before_the_first_task_and_ahead_of_it_stay_where_they_belong() -> None:
    rows = {  # after, task, label, prediction
        "after_task": [-1, -1, 0, 0, 0, 1, 1, 1],
        "task": [0, 1, 0, 1, 1, 0, 1, 1],
        "label": [0, 0, 0, 0, 1, 0, 0, 1],
        "prediction": [1, 0, 0, 0, 0, 0, 0, 1],
    }
    log = {name: np.array(column) for name, column in rows.items()}
    log |= {"masked_prediction": log["prediction"], "confidence": np.full(8, 0.5)}
    results = Results.from_log(log, num_tasks=2)
    np.testing.assert_array_equal(results.accuracy, [[1.0, 0.5], [1.0, 1.0]])
    np.testing.assert_array_equal(results.untrained, [0.0, 1.0])
    assert results.class_accuracy is not None
    np.testing.assert_array_equal(results.class_accuracy, [[1.0, NAN], [1.0, 1.0]])  # of the tasks seen
    assert value("fwt", results) == pytest.approx(0.5 - 1.0)
    assert len(results.last["task"]) == 3


# Comparison with joint training


def test_joint_training_gives_intransigence_and_gap_by_hand() -> None:
    own = matrix_of([[0.8], [0.5, 0.7]])
    every, last = matrix_of([[0.9], [0.85, 0.8]]), matrix_of([[], [0.85, 0.8]])
    assert value("intransigence", own, every) == pytest.approx((0.1 + 0.1) / 2)
    assert np.isnan(value("intransigence", own, last))
    for joint in (every, last):
        assert value("intransigence-last", own, joint) == pytest.approx(0.1)
        assert value("gap-to-joint", own, joint) == pytest.approx(0.825 - 0.6)
        assert value("omega", own, joint) == pytest.approx(0.6 / 0.825)
    alone = compute(own)
    assert all(np.isnan(alone[name]) for name, metric in METRICS.items() if metric.against)


# Calibration


def test_likelihood_and_squared_error_are_those_of_the_whole_distribution() -> None:
    from sklearn.metrics import log_loss  # takes seconds to import

    shares, labels = draw_shares(200, 5)
    results = Results.from_log(log_of(shares, labels, torch.zeros(5, dtype=torch.long), 0), 1)
    truth, double = np.eye(5)[labels.numpy()], shares.double()
    expected = log_loss(labels, double / double.sum(dim=1, keepdim=True), labels=range(5))
    assert value("nll", results) == pytest.approx(expected, rel=1e-5)
    assert value("brier", results) == pytest.approx(((shares.numpy() - truth) ** 2).sum(1).mean(), rel=1e-5)


def test_a_share_of_nought_is_a_finite_surprise() -> None:
    log = log_of(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), torch.zeros(2, dtype=torch.long), 0)
    assert value("nll", Results.from_log(log, 1)) == pytest.approx(-np.log(1e-12))


def brute_force_classwise(shares: NDArray[Any], labels: NDArray[Any]) -> float:
    errors = []
    for number in range(shares.shape[1]):
        share, is_it, error = shares[:, number], labels == number, 0.0
        for start in np.arange(NUM_BINS) / NUM_BINS:
            inside = (share > start) & (share <= start + 1 / NUM_BINS)
            if inside.any():
                error += inside.mean() * abs(is_it[inside].mean() - share[inside].mean())
        errors.append(error)
    return float(np.mean(errors))


def test_classwise_error_is_that_of_the_definition_in_any_batches() -> None:
    shares, labels = draw_shares(300, 4)
    counted = Reliability(4)
    for part in (slice(0, 120), slice(120, 121), slice(121, 300)):
        counted.add(shares[part], labels[part])
    results = matrix_of([[0.5]], reliability=counted.columns())
    expected = brute_force_classwise(shares.double().numpy(), labels.numpy())
    assert value("ece-classwise", results) == pytest.approx(expected, rel=1e-5)


def test_classwise_error_of_a_calibrated_learner_tends_to_zero() -> None:
    errors = []
    for num_images in (100, 10_000, 200_000):
        shares, _ = draw_shares(num_images, 3)
        labels = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(1))[:, 0]
        counted = Reliability(3)
        counted.add(shares, labels)
        errors.append(value("ece-classwise", matrix_of([[0.5]], reliability=counted.columns())))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.005


def test_gaps_of_two_tasks_cancel_over_all_but_not_by_task() -> None:
    last = {
        "task": np.array([0, 0, 1, 1]),
        "label": np.zeros(4),
        "prediction": np.array([0, 0, 1, 1]),
        "confidence": np.full(4, 0.5),
    }
    results = matrix_of([[1.0], [1.0, 0.0]], last=last)
    assert value("ece", results) == 0.0
    assert value("ece-macro", results) == 0.5


# Growing label space, and old against new


def test_the_first_task_that_beats_the_label_tells_every_restricted_accuracy() -> None:
    shares, labels = draw_shares(500, 6)
    came_in = torch.tensor([0, 0, 1, 1, 2, 2])
    log = log_of(shares, labels, came_in, after=2)
    results = Results.from_log(log, 3)
    assert results.cumulative is not None
    task = came_in[labels]
    for last in range(3):
        chosen, allowed = task <= last, came_in <= last
        restricted = shares.masked_fill(~allowed, -1.0)[chosen].argmax(dim=1)
        expected = (restricted == labels[chosen]).double().mean()
        assert results.cumulative[2, last] == pytest.approx(float(expected))
    assert results.cumulative[2, 2] == pytest.approx(value("accuracy-micro", matrix_micro(results, task)))


def matrix_micro(results: Results, task: torch.Tensor) -> Results:
    return replace(results, num_test=np.bincount(task.numpy(), minlength=3))


def test_of_equal_shares_the_first_class_wins_as_in_the_prediction() -> None:
    shares = torch.full((2, 2), 0.5)
    log = log_of(shares, torch.tensor([0, 1]), torch.tensor([0, 1]), after=1)
    assert log["beaten_in"].tolist() == [-1, 0]


def test_what_a_growing_label_space_takes_is_not_forgetting() -> None:
    # the class of task 1 takes all images of task 0, among whose own classes nothing has changed
    came_in = torch.tensor([0, 0, 1])
    before = log_of(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]), came_in[:2], after=0)
    later = torch.tensor([[0.4, 0.1, 0.5], [0.1, 0.4, 0.5], [0.0, 0.0, 1.0]])
    after = log_of(later, torch.tensor([0, 1, 2]), came_in, after=1)
    log = {name: np.concatenate([before[name], after[name]]) for name in before}
    values = compute(Results.from_log(log, 2))
    assert values["forgetting"] == 1.0
    assert values["forgetting-cumulative"] == 0.0
    assert values["forgetting-masked"] == 0.0
    assert values["accuracy-cumulative"] == pytest.approx((1.0 + 1 / 3) / 2)


def test_bias_is_the_gap_of_the_largest_shares_balanced_over_old_and_new() -> None:
    came_in = torch.tensor([0, 1])
    shares = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    results = Results.from_log(log_of(shares, torch.tensor([0, 0, 0, 1]), came_in, after=1), 2)
    gap_old, gap_new = np.log(0.2 / 0.8), np.log(0.6 / 0.4)
    assert value("bias-to-new", results) == pytest.approx((gap_old + gap_new) / 2, rel=1e-6)
    mirrored = Results.from_log(
        log_of(torch.tensor([[0.7, 0.3], [0.3, 0.7]]), torch.tensor([0, 1]), came_in, after=1), 2
    )
    assert value("bias-to-new", mirrored) == pytest.approx(0.0, abs=1e-6)


def test_confusion_of_old_and_new_counts_the_images_of_each_side() -> None:
    came_in = torch.tensor([0, 0, 1])
    shares = torch.eye(3)[[0, 2, 2, 2, 1]]
    results = Results.from_log(log_of(shares, torch.tensor([0, 1, 1, 2, 2]), came_in, after=1), 2)
    assert value("old-as-new", results) == pytest.approx(2 / 3)
    assert value("new-as-old", results) == pytest.approx(1 / 2)


def test_with_one_task_nothing_is_old() -> None:
    results = Results.from_log(log_of(*draw_shares(10, 2), torch.zeros(2, dtype=torch.long), 0), 1)
    assert all(np.isnan(value(name, results)) for name in ("bias-to-new", "old-as-new", "new-as-old"))


# Representations


def test_similarity_ignores_rotation_scale_and_shift() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(50, 8))
    rotation = np.linalg.qr(draw.normal(size=(8, 8)))[0]
    moved = 3 * features @ rotation + 5
    assert linear_cka(features, features) == pytest.approx(1.0)
    assert linear_cka(features, moved) == pytest.approx(1.0)
    assert debiased_cka(features, moved) == pytest.approx(1.0)


def test_of_unrelated_features_only_the_debiased_similarity_is_about_nought() -> None:
    draw = np.random.default_rng(0)
    pairs = [(draw.normal(size=(20, 200)), draw.normal(size=(20, 200))) for _ in range(20)]
    assert np.mean([linear_cka(*pair) for pair in pairs]) > 0.8  # n < d: the bias of the plain estimate
    assert abs(np.mean([debiased_cka(*pair) for pair in pairs])) < 0.05


def test_similarity_of_two_features_by_hand() -> None:
    # centred, x is (-1, 0, 1) and y is (-1, 2, -1): orthogonal, with squared lengths 2 and 6
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [3.0], [0.0]])
    assert linear_cka(x, y) == pytest.approx(0.0)
    assert linear_cka(x, np.hstack([x, y])) == pytest.approx(2 * 2 / (2 * np.hypot(2, 6)))


def probe_of(*after: NDArray[Any]) -> Representations:
    n = len(after[0])
    return Representations(list(after), np.zeros(n, int), np.zeros(n, int), np.ones(n, bool))


def test_drift_is_the_distance_of_directions() -> None:
    east, north = np.array([[1.0, 0.0]]), np.array([[0.0, 5.0]])
    assert representation_drift(probe_of(east, 7 * east, north)) == pytest.approx([0.0, np.sqrt(2)])
    wider = np.array([[3.0, 0.0, 9.0]])
    assert representation_drift(probe_of(east, wider)) == pytest.approx([0.0])
    results = matrix_of([[1.0], [1.0, 1.0], [1.0] * 3], representations=probe_of(east, 7 * east, north))
    assert value("representation-drift", results) == pytest.approx(np.sqrt(2) / 2)


def test_a_linear_probe_reads_what_is_linear_and_nothing_from_noise() -> None:
    draw = np.random.default_rng(0)
    labels, is_test = np.arange(200) % 2, np.arange(200) >= 100
    good = draw.normal(size=(200, 4)) + 6 * labels[:, None]
    for features, low, high in ((good, 0.99, 1.0), (draw.normal(size=(200, 4)), 0.3, 0.7)):
        probe = Representations([features], labels, labels, is_test)
        assert low <= value("accuracy-probed", matrix_of([[1.0]], representations=probe)) <= high
