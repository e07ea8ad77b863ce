"""The order of scores decides every prediction; shares are read only where scores are probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from clbench.evaluate import METRICS, Results
from clbench.evaluate.digest import NEVER, digest, shares_of
from clbench.evaluate.results import SCORE_TYPES
from clbench.evaluate.score_check import ScoreCheck

CAME_IN = torch.tensor([0, 0, 1, 1, 2])
DECIDED = ("prediction", "masked_prediction", "beaten_in")
OF_SHARES = ("confidence", "label_score", "sum_squares", "old_score", "new_score")
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "log-softmax": lambda logits: logits.log_softmax(dim=1),
    "softmax": lambda logits: logits.softmax(dim=1),
    "all negative": lambda logits: logits - 1e3,
    "small": lambda logits: 1e-9 * logits,
    "a row sum below 0": lambda logits: logits - logits.mean(dim=1, keepdim=True) - 0.1,
}


def logits_and_labels(num_images: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_images, 5, generator=generator, dtype=torch.double)
    return logits, torch.randint(5, (num_images,), generator=generator)


def columns_of(scores: Tensor, labels: Tensor, shares: Tensor | None = None) -> dict[str, np.ndarray]:
    own = CAME_IN[labels][:, None] == CAME_IN
    rows = digest(scores, labels, shares_BC=shares, own_BC=own, came_in_C=CAME_IN, newest=2)
    return dict(zip(SCORE_TYPES, rows.numpy(), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_one_order_decide_alike(form: str) -> None:
    logits, labels = logits_and_labels()
    expected, columns = columns_of(logits, labels), columns_of(FORMS[form](logits), labels)
    assert len(np.unique(expected["prediction"])) == 5
    for name in DECIDED:
        np.testing.assert_array_equal(columns[name], expected[name])


def test_without_shares_nothing_is_known_of_them() -> None:
    logits, labels = logits_and_labels()
    columns = columns_of(logits, labels)
    assert all(np.isnan(columns[name]).all() for name in OF_SHARES)
    same = {"after_task": np.full(len(labels), 2), "task": CAME_IN[labels].numpy(), "label": labels.numpy()}
    results = Results.from_log({**same, "row": np.arange(len(labels)), **columns}, 3)
    names = [name for name, each in METRICS.items() if each.family == "calibration"] + ["bias-to-new"]
    assert len(names) == 6
    assert all(np.isnan(METRICS[name](results)) for name in names)
    assert not np.isnan(METRICS["accuracy"](results))


def test_a_class_that_must_not_be_chosen_is_not() -> None:
    scores = torch.tensor([[NEVER, -7.0, NEVER, -9.0, NEVER]])
    columns = columns_of(scores, torch.tensor([3]))
    assert (columns["prediction"], columns["masked_prediction"], columns["beaten_in"]) == (1, 3, 0)


def test_shares_are_taken_among_the_classes_that_are_allowed() -> None:
    rows = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    allowed = torch.tensor([[False, True, True], [False, True, True]])
    expected = torch.tensor([[0.0, 0.6, 0.4], [0.0, 0.5, 0.5]])  # where all have none, they share alike
    torch.testing.assert_close(shares_of(rows, allowed), expected)
    torch.testing.assert_close(shares_of(2 * rows), rows)


def fault_of(scores: list[list[float]], *, are_probabilities: bool = False, is_to_tell: bool = True) -> str:
    check = ScoreCheck(are_probabilities=are_probabilities)
    for part in torch.tensor(scores).split(2):
        check.add(part)
    return check.fault(is_to_tell=is_to_tell)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.1, 0.9], [NAN, 0.5], [INF, 0.2]], "2 of 3 rows of scores are not finite"),
        ([[0.1, 0.9], [-INF, 0.5], [0.3, 0.2]], "1 of 3 rows of scores are not finite"),
        ([[0.1, 0.9]] * 3, "3 of 3 rows of scores are the same: no image is told from another"),
        ([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]], "3 of 3 rows of scores give every class the same"),
    ],
)
def test_rows_that_say_nothing_are_counted(scores: list[list[float]], message: str) -> None:
    assert fault_of(scores).startswith(message)


@pytest.mark.parametrize(
    "scores",
    [
        [[-3.0, 2.0], [5.0, -1e9], [0.0, 0.0]],
        [[1.0], [1.0], [1.0]],  # there is one class so far
        [[0.2, 0.8]],  # one image
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.1]],
    ],
)
def test_other_rows_pass(scores: list[list[float]]) -> None:
    assert fault_of(scores) == ""


def test_a_learner_that_has_learnt_nothing_yet_may_say_nothing() -> None:
    assert fault_of([[0.5, 0.5]] * 4, are_probabilities=True, is_to_tell=False) == ""
    assert "1 of 2" in fault_of([[NAN, 0.5], [0.5, 0.5]], is_to_tell=False)


@pytest.mark.parametrize("row", [[0.5, 0.6], [-0.1, 1.1], [3.0, -2.0]])
def test_a_false_declaration_is_found(row: list[float]) -> None:
    assert "gives_probabilities is true, and 1 of 3 rows" in fault_of(
        [[0.5, 0.5], row, [0.1, 0.9]], are_probabilities=True
    )
