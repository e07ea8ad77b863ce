"""Ask whether confidence means what it says, in the evaluation after the last task.

p is an image's distribution over the classes seen. It is there where a strategy declares that its scores are
probabilities (``gives_probabilities``), each row divided by its sum to mend rounding; of similarities, logits
and distances nothing here is known. torchmetrics has these errors too, but not from a log of single shares,
and importing it takes longer than many a report; tests hold the two equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.evaluate import metric
from clbench.evaluate.means import mean
from clbench.evaluate.results import Matrix, Results

NUM_BINS = 15  # of equal width, each open on the left: (0, 1/15], (1/15, 2/15], ...
LEAST = 1e-12  # share that a class is taken to have at least, in a logarithm (our choice)
NAN = float("nan")

GUO = "Guo et al., ICML 2017, arXiv 1706.04599"
IMAGES = "micro: test images of the last evaluation weigh the same"
OLDER_RECORD = "the record is of an older clbench, which did not keep it"
NO_SHARES = "the strategy's scores are no probabilities"


@metric(
    "ece",
    formula="Σ_b |B_b|/n · |acc(B_b) - conf(B_b)|, 15 equal-width bins of confidence",
    averaging=IMAGES,
    reference=GUO,
    unknown=f"{NO_SHARES}: no prediction has a confidence",
    higher_is_better=False,
)
def expected_calibration_error(results: Results) -> float:
    """Average the gap between confidence and accuracy over bins of confidence.

    Images whose confidence is NaN are left out; NaN if none remains.
    """
    known = ~np.isnan(results.confidence)
    return _error(results.confidence[known], results.correct[known])


@metric(
    "ece-macro",
    formula="1/T Σ_j ECE of the test images of task j, 15 equal-width bins of confidence",
    averaging="macro: tasks weigh the same",
    reference=GUO,
    unknown=f"{NO_SHARES}: a task's predictions have no confidence",
    higher_is_better=False,
)
def expected_calibration_error_of_tasks(results: Results) -> float:
    """Average the calibration error of each task; gaps of opposite sign in two tasks do not cancel."""
    tasks = results.last.get("task", np.zeros(0))
    known = ~np.isnan(results.confidence)
    errors = [
        _error(results.confidence[known & (tasks == task)], results.correct[known & (tasks == task)])
        for task in np.unique(tasks)
    ]
    return mean(errors)


@metric(
    "ece-classwise",
    formula="1/|C| Σ_c Σ_b |B_{c,b}|/n · |share of class c in B_{c,b} - mean p_c in it|, 15 equal-width bins",
    averaging="macro over the classes seen, then micro over test images",
    reference="Kull et al., NeurIPS 2019, arXiv 1910.12656",
    unknown=f"{NO_SHARES}, or {OLDER_RECORD}",
    higher_is_better=False,
)
def classwise_calibration_error(results: Results) -> float:
    """Average over classes the gap between the share a class is given and how often it is right."""
    counts = results.reliability
    if counts is None or not len(counts["num"]):
        return NAN
    num_classes = len(np.unique(counts["class"]))  # each has a share, if only of nought, of every image
    num_images = counts["num"].sum() / num_classes
    gaps = np.abs(counts["hits"] - counts["confidence"])
    return float(gaps.sum() / num_images / num_classes)


@metric(
    "nll",
    formula="-1/n Σ_x ln p_y(x), y: the true class; p_y is taken to be at least 1e-12 (our choice)",
    averaging=IMAGES,
    reference=GUO,
    unknown=f"{NO_SHARES}, or the record has no share of the true class",
    higher_is_better=False,
    unit="nats",
)
def negative_log_likelihood(results: Results) -> float:
    """Average the surprise at the true class."""
    share = _column(results, "label_score")
    return float(-np.log(np.maximum(share, LEAST)).mean()) if share.size else NAN


@metric(
    "brier",
    formula="1/n Σ_x Σ_c (p_c(x) - [c = y])² = 1/n Σ_x (Σ_c p_c² - 2 p_y + 1), in [0, 2]",
    averaging=IMAGES,
    reference="Brier, Monthly Weather Review 1950",
    unknown=f"{NO_SHARES}, or {OLDER_RECORD}",
    higher_is_better=False,
    unit="of 2",
)
def brier_score(results: Results) -> float:
    """Average the squared distance between the predicted distribution and the truth."""
    share, squares = _column(results, "label_score"), _column(results, "sum_squares")
    return float((squares - 2 * share + 1).mean()) if squares.size else NAN


def bins_of(confidence: Matrix) -> NDArray[np.int64]:
    """Return the bin of each confidence in [0, 1], from 0 on."""
    bins: NDArray[np.int64] = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return bins


def _column(results: Results, name: str) -> Matrix:
    return results.last.get(name, np.zeros(0)).astype(np.float64)


def _error(confidence: Matrix, correct: NDArray[np.bool_]) -> float:
    if not confidence.size:
        return NAN
    gaps = np.bincount(bins_of(confidence), weights=correct - confidence)  # |B_b| (acc - conf) of each bin
    return float(np.abs(gaps).sum() / confidence.size)
