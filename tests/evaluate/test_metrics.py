"""Show that every metric is its formula: worked examples, what is unknown, and properties."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from clbench.evaluate import METRICS, Results, compute, metric

NAN = float("nan")
GOLDEN = [[0.90], [0.70, 0.90], [0.60, 0.50, 0.90], [0.55, 0.40, 0.30, 0.90]]
LATE_PEAK = [[0.90], [0.95, 0.80], [0.60, 0.70, 0.90]]
IMPROVING = [[0.50], [0.60, 0.80], [0.70, 0.85, 0.90]]


def results_of(rows, num_test=None, masked=None, confidence=(), correct=(), task_found=None) -> Results:
    accuracy = np.full((len(rows), len(rows)), NAN)
    for index, row in enumerate(rows):
        accuracy[index, : len(row)] = row
    zeros = np.zeros(len(correct), dtype=int)
    prediction = np.where(correct, 0, 1) if len(correct) else zeros
    last = {"task": zeros, "label": zeros, "prediction": prediction, "masked_prediction": prediction}
    return Results(
        accuracy=accuracy,
        masked=accuracy if masked is None else np.array(masked),
        num_test=np.array(num_test or [100] * len(rows)),
        last={**last, "confidence": np.array(confidence, dtype=float)},
        task_found=task_found,
    )


@pytest.mark.parametrize(
    ("rows", "name", "value"),
    [
        (GOLDEN, "accuracy", 0.5375),
        (GOLDEN, "average-incremental-accuracy", 0.72604),
        (GOLDEN, "forgetting", 0.48333),
        (GOLDEN, "bwt", -0.48333),
        (GOLDEN, "bwt-d", -0.39167),
        (GOLDEN, "accuracy-d", 0.665),
        (GOLDEN, "learning-accuracy", 0.90),
        (LATE_PEAK, "forgetting", 0.225),
        (LATE_PEAK, "bwt", -0.200),
        (IMPROVING, "forgetting", -0.075),
        (IMPROVING, "bwt", 0.125),
    ],
)
def test_worked_examples_come_out(rows, name, value):
    assert METRICS[name](results_of(rows)) == pytest.approx(value, abs=1e-5)


def test_macro_weighs_tasks_and_micro_weighs_images():
    values = compute(results_of([[1.0], [0.5, 0.9]], num_test=[300, 100]))
    assert values["accuracy"] == pytest.approx(0.7)
    assert values["accuracy-micro"] == pytest.approx(0.6)  # (150 + 90) / 400
    assert values["average-incremental-accuracy"] == pytest.approx(0.85)
    assert values["average-incremental-accuracy-micro"] == pytest.approx(0.8)


def test_macro_equals_micro_for_equal_tasks():
    values = compute(results_of(GOLDEN))
    assert values["accuracy-micro"] == pytest.approx(values["accuracy"])
    assert values["average-incremental-accuracy-micro"] == pytest.approx(
        values["average-incremental-accuracy"]
    )


def test_reordering_unequal_tasks_keeps_both_averages():
    row, sizes, order = np.array([0.2, 0.5, 0.9]), np.array([10, 200, 30]), [2, 0, 1]
    first = compute(results_of([[], [], row], num_test=list(sizes)))
    second = compute(results_of([[], [], row[order]], num_test=list(sizes[order])))
    for name in ("accuracy", "accuracy-micro"):
        assert first[name] == pytest.approx(second[name])


def test_cells_above_the_diagonal_change_nothing():
    lower = results_of(LATE_PEAK, confidence=[0.5], correct=[True])
    full = results_of(
        [[0.90, 0.99, 0.99], [0.95, 0.80, 0.99], LATE_PEAK[2]], None, lower.masked, [0.5], [True]
    )
    assert compute(full) == pytest.approx(compute(lower), nan_ok=True)


def test_a_constant_matrix_forgets_exactly_nothing():
    values = compute(results_of([[0.3] * (step + 1) for step in range(5)]))
    assert [values[name] for name in ("forgetting", "forgetting-masked", "bwt", "bwt-d")] == [0.0] * 4
    assert values["accuracy-d"] == pytest.approx(0.3)


def test_one_task_has_accuracy_and_no_forgetting():
    values = compute(results_of([[0.8]]))
    assert values["accuracy"] == values["average-incremental-accuracy"] == values["learning-accuracy"] == 0.8
    assert all(np.isnan(values[name]) for name in ("forgetting", "forgetting-masked", "bwt", "bwt-d"))


def test_with_only_the_last_row_known_accuracy_is_known_and_forgetting_is_not():
    values = compute(results_of([[], [], [0.6, 0.7, 0.8]]))
    assert values["accuracy"] == pytest.approx(0.7)
    unknown = (
        "forgetting",
        "bwt",
        "bwt-d",
        "average-incremental-accuracy",
        "learning-accuracy",
        "accuracy-d",
    )
    assert all(np.isnan(values[name]) for name in unknown)


def test_without_the_last_row_the_end_is_unknown():
    values = compute(results_of([[0.9], [0.8, 0.7], []]))
    assert all(np.isnan(values[name]) for name in ("accuracy", "accuracy-micro", "forgetting", "bwt"))
    assert np.isnan(values["average-incremental-accuracy"])
    assert np.isnan(values["learning-accuracy"])


def test_forgetting_takes_the_best_of_the_known_steps():
    rows = [[NAN], [0.9, 0.8], [0.7, NAN, 0.9], [0.6, 0.5, 0.4, 0.9]]
    drops = [0.9 - 0.6, 0.8 - 0.5, 0.9 - 0.4]
    assert METRICS["forgetting"](results_of(rows)) == pytest.approx(np.mean(drops))


def test_a_task_without_test_images_is_left_out():
    rows = [[0.9], [0.7, NAN], [0.6, NAN, 0.8]]
    values = compute(results_of(rows, num_test=[100, 0, 300]))
    assert values["accuracy"] == pytest.approx(0.7)
    assert values["accuracy-micro"] == pytest.approx((60 + 240) / 400)
    assert values["average-incremental-accuracy"] == pytest.approx((0.9 + 0.7 + 0.7) / 3)
    assert values["average-incremental-accuracy-micro"] == pytest.approx((0.9 + 0.7 + 0.75) / 3)
    assert values["forgetting"] == pytest.approx(0.3)
    assert values["bwt"] == pytest.approx(-0.3)
    assert values["bwt-d"] == pytest.approx((-0.2 - 0.3) / 2)
    assert values["accuracy-d"] == pytest.approx((0.9 + 0.7 + 0.6 + 0.8) / 4)
    assert values["learning-accuracy"] == pytest.approx((0.9 + 0.8) / 2)


def test_nothing_known_gives_nan_everywhere():
    values = compute(results_of([[], []], num_test=[0, 0]))
    assert all(np.isnan(value) for value in values.values())


def test_masked_twin_and_task_inference_use_their_own_matrices():
    masked = [[1.0, NAN], [0.8, 0.9]]
    found = np.array([[1.0, NAN], [0.5, 0.7]])
    values = compute(results_of([[1.0], [0.1, 0.2]], masked=masked, task_found=found))
    assert values["accuracy-masked"] == pytest.approx(0.85)
    assert values["forgetting-masked"] == pytest.approx(0.2)
    assert values["task-inference"] == pytest.approx(0.6)


def test_calibration_error_of_two_bins_by_hand():
    # bin (12/15, 13/15]: 4 images, confidence 0.85, accuracy 0.5; bin (4/15, 5/15]: 1 image, 0.3, wrong
    confidence, correct = [0.85] * 4 + [0.3], [True, True, False, False, False]
    value = METRICS["ece"](results_of(GOLDEN, confidence=confidence, correct=correct))
    assert value == pytest.approx((4 * 0.35 + 0.3) / 5)


def test_gaps_of_opposite_sign_cancel_inside_a_bin_only():
    inside = results_of(GOLDEN, confidence=[0.45, 0.46], correct=[True, False])
    across = results_of(GOLDEN, confidence=[0.35, 0.46], correct=[True, False])
    assert METRICS["ece"](inside) == pytest.approx(abs(0.5 - 0.455))
    assert METRICS["ece"](across) == pytest.approx((0.65 + 0.46) / 2)


def test_bounds_of_confidence_fall_into_the_outer_bins():
    value = METRICS["ece"](results_of(GOLDEN, confidence=[0.0, 1.0], correct=[False, True]))
    assert value == 0.0


def test_images_without_confidence_are_left_out_of_calibration():
    value = METRICS["ece"](results_of(GOLDEN, confidence=[NAN, 0.9], correct=[True, True]))
    assert value == pytest.approx(0.1)


def test_calibration_error_of_a_calibrated_stream_tends_to_zero():
    draw = np.random.default_rng(0)
    errors = []
    for num_images in (100, 10_000, 1_000_000):
        confidence = draw.random(num_images)
        correct = draw.random(num_images) < confidence
        errors.append(METRICS["ece"](results_of(GOLDEN, confidence=confidence, correct=correct)))
    # the deviation of a bin's gap is sqrt(1/6 * 15/n) on average: 0.16, 0.016, 0.0016
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.002


def test_calibration_error_equals_that_of_torchmetrics():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    draw = np.random.default_rng(1)
    confidence, correct = draw.random(500), draw.random(500) < 0.6
    theirs = classification.binary_calibration_error(
        torch.from_numpy(confidence), torch.from_numpy(correct).int(), n_bins=15
    )
    ours = METRICS["ece"](results_of(GOLDEN, confidence=confidence, correct=correct))
    assert ours == pytest.approx(float(theirs), abs=1e-6)  # theirs is in single precision


def test_log_becomes_matrices_and_last_confidences():
    # task 0: classes 0, 1 (rows 0, 1); task 1: classes 2, 3 (rows 2, 3, 4)
    columns = ("after_task", "task", "row", "label", "prediction", "masked_prediction", "confidence")
    rows = [
        (0, 0, 0, 0, 0, 0, 0.9),
        (0, 0, 1, 1, 0, 0, 0.8),
        (1, 0, 0, 0, 2, 0, 0.7),
        (1, 0, 1, 1, 1, 1, 0.6),
        (1, 1, 2, 2, 2, 2, 0.5),
        (1, 1, 3, 3, 2, 2, 0.4),
        (1, 1, 4, 3, 0, 3, 0.3),
    ]
    log = {name: np.array(column) for name, column in zip(columns, zip(*rows, strict=True), strict=True)}
    log["after_task"] = log["after_task"].astype(np.int16)
    log["label_score"] = np.zeros(len(rows))
    results = Results.from_log(log, num_tasks=3)
    np.testing.assert_allclose(results.accuracy, [[0.5, NAN, NAN], [0.5, 1 / 3, NAN], [NAN] * 3])
    np.testing.assert_allclose(results.masked, [[0.5, NAN, NAN], [1.0, 2 / 3, NAN], [NAN] * 3])
    np.testing.assert_allclose(results.task_found, [[1.0, NAN, NAN], [0.5, 2 / 3, NAN], [NAN] * 3])
    assert results.num_test.tolist() == [2, 3, 0]
    assert results.confidence.tolist() == [0.7, 0.6, 0.5, 0.4, 0.3]
    assert results.correct.tolist() == [False, True, True, False, False]


def test_an_empty_log_knows_nothing():
    names = (
        "after_task",
        "task",
        "row",
        "label",
        "prediction",
        "masked_prediction",
        "confidence",
        "label_score",
    )
    results = Results.from_log({name: np.array([]) for name in names}, num_tasks=2)
    assert np.isnan(results.accuracy).all()
    assert all(np.isnan(value) for value in compute(results).values())


def test_matrices_of_many_small_integers_do_not_overflow():
    after = np.full(4, 299, dtype=np.int16)  # 299 * 300 is beyond 16 bits
    column = np.zeros(4, dtype=np.int32)
    log = {name: column for name in ("row", "label", "prediction", "masked_prediction")}
    log |= {"after_task": after, "task": after, "confidence": column, "label_score": column}
    assert Results.from_log(log, num_tasks=300).accuracy[299, 299] == 1.0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_how_it_comes_about(name):
    entry = METRICS[name]
    assert all((entry.summary, entry.formula, entry.averaging, entry.reference, entry.unknown, entry.family))


def test_a_second_metric_of_a_name_is_refused():
    with pytest.raises(ValueError, match="'forgetting' is registered twice"):
        metric("forgetting", formula="0", averaging="", reference="", unknown="")(lambda results: 0.0)


def test_metrics_are_listed_without_torch():
    code = "import sys, clbench.evaluate; sys.exit('torch' in sys.modules or not clbench.evaluate.METRICS)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
