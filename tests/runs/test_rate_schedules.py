"""A schedule gives each step the share of the learning rate that its name says."""

from __future__ import annotations

import math

import pytest

from clbench import strategies
from clbench.runs.optimizers import rate_factor


def factors(schedule: str, num_epochs: int, steps: int = 10, **options: float) -> list[float]:
    strategy = strategies.get("naive")(schedule=schedule, **options)
    return [
        rate_factor(strategy, (epoch + step / steps) / num_epochs, epoch, num_epochs)
        for epoch in range(num_epochs)
        for step in range(steps)
    ]


@pytest.mark.parametrize(
    ("schedule", "mean"), [("quarter-cosine", 0.636), ("cosine", 0.5), ("constant", 1.0), ("step", 0.91)]
)
def test_the_mean_factor_of_twenty_epochs_is_what_is_worked_out_by_hand(schedule: str, mean: float):
    values = factors(schedule, 20, steps=100)
    assert sum(values) / len(values) == pytest.approx(mean, abs=1e-3)


def test_the_quarter_of_a_cosine_goes_from_epoch_to_epoch():
    assert factors("quarter-cosine", 3) == pytest.approx(
        [1.0] * 10 + [math.cos(0.2475 * math.pi)] * 10 + [math.cos(0.495 * math.pi)] * 10
    )
    assert factors("quarter-cosine", 1) == [1.0] * 10


@pytest.mark.parametrize(("milestone", "num_epochs", "first"), [(0.9, 20, 18), (0.8, 50, 40), (0.9, 10, 9)])
def test_a_step_is_at_the_epoch_of_the_milestone(milestone: float, num_epochs: int, first: int):
    values = factors("step", num_epochs, steps=1, milestone=milestone)
    assert values == [1.0] * first + [0.1] * (num_epochs - first)


def test_a_step_never_comes_in_a_single_pass():
    assert set(factors("step", 1)) == {1.0}
