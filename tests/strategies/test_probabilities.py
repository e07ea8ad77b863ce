"""Each strategy says truly whether its scores are probabilities."""

from __future__ import annotations

import pytest

from clbench import strategies
from clbench.options import build

OTHERS = {  # what the scores of the others are
    "aper": "cosines",
    "avalanche.icarl": "minus distances to class means",
    "avalanche.scr": "minus distances to class means",
    "ease": "sums of cosines",
    "fecam": "minus Mahalanobis distances, each class with a covariance of its own",
    "generative": "cosines, but for classifier=lda",
    "icarl": "cosines",
    "lae": "the larger of two probabilities, but for ensemble=mean and evidential",
    "ranpac": "outputs of a regression on 0 and 1",
    "scr": "cosines",
    "simplecil": "cosines",
}


@pytest.mark.parametrize("name", strategies.names())
def test_what_is_declared_is_what_the_method_has(name: str) -> None:
    """That rows of probabilities sum to 1 on a run is part of the contract of every strategy."""
    made = build(strategies.get(name), "strategy", {})
    assert made.gives_probabilities is (name not in OTHERS)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lae", {"ensemble": "mean"}, True),
        ("lae", {"ensemble": "evidential"}, True),
        ("lae", {"ensemble": "max"}, False),
        ("generative", {"classifier": "lda"}, True),
        ("generative", {"classifier": "ncm_running"}, False),
    ],
)
def test_an_option_may_decide(name: str, options: dict[str, str], expected: bool) -> None:
    assert build(strategies.get(name), "strategy", options).gives_probabilities is expected
