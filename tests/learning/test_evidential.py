"""Evidence, its losses and its fusion agree with the long formulas and with examples by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clbench.learning.evidential import (
    belief,
    dempster,
    dirichlet_loss,
    discount,
    divergence_of_misleading,
    evidence,
    expected_cross_entropy,
    fuse,
    probability,
    uncertainty,
)

MODES = ["dempster", "discounted", "cumulative", "average", "uncertainty_mix"]


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def random_evidence(seed: int, num_classes: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10 * torch.rand(20, num_classes, generator=generator, dtype=torch.float64).square()


def close(value: Tensor, expected: Tensor | float | list[float], tolerance: float = 1e-12) -> bool:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return torch.allclose(value.double(), expected, rtol=0, atol=tolerance)


def test_belief_and_uncertainty_sum_to_one_before_and_after_fusion() -> None:
    first, second = random_evidence(0), random_evidence(1)
    for each in (first, second, dempster(torch.stack([first, second]))):
        assert close(belief(each).sum(dim=1) + uncertainty(each), torch.ones(20))
        assert close(probability(each).sum(dim=1), torch.ones(20))


def test_closed_form_is_dempsters_rule() -> None:
    first, second = random_evidence(0), random_evidence(1)
    (b1, u1), (b2, u2) = ((belief(each), uncertainty(each)) for each in (first, second))
    conflict = b1.sum(dim=1) * b2.sum(dim=1) - (b1 * b2).sum(dim=1)
    long_belief = (b1 * b2 + b1 * u2[:, None] + b2 * u1[:, None]) / (1 - conflict)[:, None]
    fused = dempster(torch.stack([first, second]))
    assert close(belief(fused), long_belief)
    assert close(fused, first + second + first * second / 5, 1e-10)
    opinion = fuse([first, second])
    assert close(opinion.uncertainty, u1 * u2 / (1 - conflict))
    assert close(opinion.conflict, conflict)
    assert close(opinion.probability, probability(fused))


def test_fusion_is_never_less_certain_than_its_parts() -> None:
    first, second = random_evidence(0), random_evidence(1)
    fused = fuse([first, second]).uncertainty
    assert (fused <= torch.minimum(uncertainty(first), uncertainty(second))).all()


def test_no_evidence_changes_nothing_and_order_and_grouping_do_not_matter() -> None:
    first, second, third = (random_evidence(seed) for seed in range(3))
    together = dempster(torch.stack([first, second, third]))
    assert close(dempster(torch.stack([first, torch.zeros_like(first)])), first)
    assert close(dempster(torch.stack([third, first, second])), together, 1e-9)
    grouped = dempster(torch.stack([first, dempster(torch.stack([second, third]))]))
    assert close(grouped, together, 1e-9)


def test_two_classes_by_hand() -> None:
    """b1 = (2/3, 0), u1 = 1/3 and b2 = (0, 1/3), u2 = 2/3 fuse to b = (4/7, 1/7), u = 2/7, alpha = (5, 2)."""
    first, second = row(4, 0), row(0, 1)
    assert close(belief(first), [[2 / 3, 0]])
    assert close(uncertainty(second), [2 / 3])
    fused = dempster(torch.stack([first, second]))
    assert close(belief(fused), [[4 / 7, 1 / 7]])
    assert close(fused + 1, [[5, 2]])
    opinion = fuse([first, second])
    assert close(opinion.uncertainty, [2 / 7])
    assert close(opinion.conflict, [2 / 9])


def test_three_classes_by_hand() -> None:
    opinion = fuse([row(6, 0, 0), row(0, 1, 0)])
    assert close(opinion.probability, [[0.7, 0.2, 0.1]])
    assert close(opinion.uncertainty, [0.3])
    assert close(opinion.conflict, [1 / 6])
    agreed = fuse([row(6, 0, 0), row(3, 0, 0)])
    assert close(agreed.uncertainty, [1 / 6])
    assert close(agreed.probability, [[16 / 18, 1 / 18, 1 / 18]])
    assert close(agreed.conflict, [0])


def test_loss_by_hand() -> None:
    """Of alpha = (3, 1, 1): psi(5) - psi(3) = 1/3 + 1/4 and psi(5) - psi(1) = 1 + 1/2 + 1/3 + 1/4."""
    alpha_minus_one = row(2, 0, 0)
    right, wrong = torch.tensor([0]), torch.tensor([1])
    assert close(expected_cross_entropy(alpha_minus_one, right), [7 / 12])
    assert close(divergence_of_misleading(alpha_minus_one, right), [0])
    assert close(expected_cross_entropy(alpha_minus_one, wrong), [25 / 12])
    assert close(divergence_of_misleading(alpha_minus_one, wrong), [math.log(6) - 7 / 6])
    both = dirichlet_loss(alpha_minus_one.repeat(2, 1), torch.tensor([0, 1]), 0.1)
    assert close(both, (7 / 12 + 25 / 12 + 0.1 * (math.log(6) - 7 / 6)) / 2)


def test_loss_prefers_evidence_for_the_label_and_reaches_the_logits() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    dirichlet_loss(evidence(logits), torch.tensor([1]), 1.0).backward()
    assert logits.grad[0, 1] < 0
    assert logits.grad[0, [0, 2]].min() > 0


def test_evidence_is_a_scaled_softplus() -> None:
    assert close(evidence(row(0, -1000, 1000), scale=2), [[2 * math.log(2), 0, 2000]])


def test_discount_by_hand() -> None:
    """Half the belief in (6, 0, 0): b = 2/3 becomes 1/3, u = 1/3 becomes 2/3, so e = (3/2, 0, 0)."""
    assert close(discount(row(6, 0, 0), 0.5), [[1.5, 0, 0]])
    assert close(discount(row(6, 0, 0), 0.0), [[0, 0, 0]])
    assert close(discount(row(6, 1, 0), 1.0), [[6, 1, 0]])
    opinion = fuse([row(6, 0, 0), row(0, 1, 0)], "discounted", reliability=[0.5, 0.0])
    assert close(opinion.uncertainty, [2 / 3])
    with pytest.raises(ValueError, match="2 experts need as many reliabilities, not 0"):
        fuse([row(1, 0), row(0, 1)], "discounted")


def test_cumulative_and_average_by_hand() -> None:
    experts = [row(6, 0, 0), row(0, 2, 0)]
    assert close(fuse(experts, "average").probability, [[4 / 7, 2 / 7, 1 / 7]])  # of (3, 1, 0)
    assert close(fuse(experts, "average").uncertainty, [3 / 7])
    assert close(fuse(experts, "cumulative").probability, [[7 / 11, 3 / 11, 1 / 11]])  # of (6, 2, 0)
    assert close(fuse(experts, "cumulative").uncertainty, [3 / 11])


def test_average_is_averaging_belief_fusion() -> None:
    first, second = random_evidence(0), random_evidence(1)
    u1, u2 = uncertainty(first), uncertainty(second)
    assert close(fuse([first, second], "average").uncertainty, 2 * u1 * u2 / (u1 + u2))


def test_mix_follows_the_expert_that_is_certain() -> None:
    nothing, second = row(0, 0, 0), row(0, 2, 0)
    assert close(fuse([nothing, second], "uncertainty_mix").probability, probability(second))
    assert close(fuse([nothing, nothing], "uncertainty_mix").probability, [[1 / 3] * 3])
    first = row(6, 0, 0)  # u = 1/3, p = (7, 1, 1) / 9; second: u = 3/5, p = (1, 3, 1) / 5
    mixed = fuse([first, second], "uncertainty_mix")
    weights = torch.tensor([2 / 3, 2 / 5], dtype=torch.float64)
    expected = (weights[0] * probability(first) + weights[1] * probability(second)) / weights.sum()
    assert close(mixed.probability, expected)
    assert close(mixed.uncertainty, [(1 / 3 + 3 / 5) / 2])


@pytest.mark.parametrize("mode", MODES)
def test_classes_that_an_expert_lacks_have_no_evidence_from_it(mode: str) -> None:
    reliability = [0.9, 0.8]
    short = fuse([row(6, 1), row(0, 2, 3)], mode, reliability)
    padded = fuse([row(6, 1, 0), row(0, 2, 3)], mode, reliability)
    assert torch.equal(short.probability, padded.probability)
    assert torch.equal(short.conflict, padded.conflict)


@pytest.mark.parametrize("mode", MODES)
def test_large_evidence_stays_finite(mode: str) -> None:
    experts = [row(1e6, 0, 1e6).float(), row(0, 1e6, 0).float(), row(1e6, 1e6, 1e6).float()]
    opinion = fuse(experts, mode, [1.0, 0.5, 1.0])
    for value in (opinion.probability, opinion.uncertainty, opinion.conflict):
        assert value.isfinite().all()
    assert close(opinion.probability.sum(dim=1), [1.0])
    assert (opinion.uncertainty > 0).all()
    assert dirichlet_loss(experts[0], torch.tensor([1]), 1.0).isfinite()


def test_total_conflict_lowers_the_uncertainty_but_is_reported() -> None:
    """(E, 0) and (0, E) fuse to (E, E): the uncertainty is 1 / (1 + E) for all that they disagree."""
    opinion = fuse([row(98, 0), row(0, 98)])
    assert close(opinion.uncertainty, [1 / 99])
    assert close(opinion.probability, [[0.5, 0.5]])
    assert close(opinion.conflict, [0.98**2])


def test_conflict_of_three_experts_is_one_minus_the_mass_that_agrees() -> None:
    stack = [random_evidence(seed, num_classes=3) for seed in range(3)]
    with_doubt = [belief(each) + uncertainty(each)[:, None] for each in stack]
    doubt = torch.stack([uncertainty(each) for each in stack]).prod(dim=0)
    agreeing = (torch.stack(with_doubt).prod(dim=0) - doubt[:, None]).sum(dim=1) + doubt
    assert close(fuse(stack).conflict, 1 - agreeing)
