"""The shared losses have the values and gradients that their papers' formulas give by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.learning.losses.distillation import distillation, softened_divergence
from clbench.learning.losses.multi_similarity import multi_similarity
from clbench.learning.losses.proxy_nca import proxy_nca
from clbench.learning.losses.quality_retaining import QualityRetaining
from clbench.learning.losses.supervised_contrastive import supervised_contrastive
from clbench.learning.losses.task_decomposition import task_term

THREE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
TWO_AND_ONE = torch.tensor([0, 0, 1])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(value: Tensor, expected: float | list[float], tolerance: float = 1e-6) -> bool:
    return torch.allclose(value.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


# Multi-similarity


def test_multi_similarity_by_hand() -> None:
    """Cosines 0, -1, 0: with alpha = beta = 2, lambda = 1/2 the exponents are 1, -3 and -1."""
    one_plus = [1 + math.e, 1 + math.exp(-3), 1 + math.e, 1 + math.exp(-1), 1 + math.exp(-3) + math.exp(-1)]
    by_hand = sum(math.log(each) / 2 for each in one_plus) / 3
    assert by_hand == pytest.approx(0.556231, abs=1e-6)
    assert close(multi_similarity(THREE, TWO_AND_ONE, alpha=2, beta=2, threshold=0.5), by_hand, 1e-12)
    assert close(multi_similarity(THREE, TWO_AND_ONE), 0.708976)


def test_multi_similarity_keeps_its_value_when_the_batch_is_shuffled_scaled_or_rotated() -> None:
    embeddings, labels = normal(12, 5), torch.arange(12) % 4
    expected = multi_similarity(embeddings, labels)
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    rotation, _ = torch.linalg.qr(normal(5, 5, seed=2))
    for changed in (multi_similarity(embeddings[shuffle], labels[shuffle]),
                    multi_similarity(embeddings * torch.arange(1, 13)[:, None], labels),
                    multi_similarity(embeddings @ rotation, labels)):  # fmt: skip
        torch.testing.assert_close(changed, expected, rtol=1e-12, atol=0)


def test_multi_similarity_bounds_the_mean_similarities_from_above() -> None:
    """By log-sum-exp >= mean + log n, with 2 positives and 9 negatives for each of 12 anchors."""
    embeddings, labels = F.normalize(normal(12, 5), dim=1), torch.arange(12) % 4
    cosines = embeddings @ embeddings.T
    is_same = labels[:, None] == labels
    positives = (cosines * (is_same & ~torch.eye(12, dtype=torch.bool))).sum(dim=1) / 2
    negatives = (cosines * ~is_same).sum(dim=1) / 9
    bound = (1 - positives + math.log(2) / 2 + negatives - 1 + math.log(9) / 50).mean()
    assert multi_similarity(embeddings, labels) >= bound


def test_multi_similarity_of_one_class_only_pulls_together() -> None:
    """Without negatives a step down the gradient raises every cosine of a pair."""
    embeddings = F.normalize(normal(2, 4), dim=1).requires_grad_()
    multi_similarity(embeddings, torch.zeros(2, dtype=torch.int64)).backward()
    moved = embeddings.detach() - 0.1 * embeddings.grad
    assert F.cosine_similarity(*moved, dim=0) > F.cosine_similarity(*embeddings.detach(), dim=0)


def test_multi_similarity_of_a_single_image_is_zero_with_zero_gradient() -> None:
    embeddings = normal(1, 4).requires_grad_()
    loss = multi_similarity(embeddings, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_mining_drops_the_easy_pairs() -> None:
    """Anchors 0 (angle 0) and 1 (60 degrees) of class 0, anchor 2 (180 degrees) of class 1."""
    angles = torch.tensor([0.0, math.pi / 3, math.pi], dtype=torch.float64)
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert multi_similarity(embeddings, TWO_AND_ONE, margin=0.1).item() == 0  # 1/2 - 0.1 >= -1/2
    wide = multi_similarity(embeddings, TWO_AND_ONE, alpha=2, beta=2, threshold=0.5, margin=1.1)
    # Anchor 1's cosines 1/2 and -1/2 are nearer than 1.1, anchor 0's 1/2 and -1 are not, anchor 2 is alone.
    assert close(wide, (math.log(2) / 2 + math.log(1 + math.exp(-2)) / 2) / 3, 1e-12)


def test_multi_similarity_is_not_computed_in_bfloat16_under_autocast() -> None:
    embeddings, labels = normal(8, 16).float(), torch.arange(8) % 2
    with torch.autocast("cpu", torch.bfloat16):
        inside = multi_similarity(embeddings, labels)
    assert torch.equal(inside, multi_similarity(embeddings, labels))


# Proxy-NCA


def test_proxy_nca_is_a_softmax_over_squared_distances() -> None:
    embeddings, proxies, labels = normal(6, 4), normal(3, 4, seed=1), torch.arange(6) % 3
    points, centres = F.normalize(embeddings, dim=1), F.normalize(proxies, dim=1)
    distances = (points[:, None] - centres).square().sum(dim=2)
    by_hand = -(-distances).log_softmax(dim=1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(proxy_nca(embeddings, labels, proxies), by_hand, rtol=1e-12, atol=0)


def test_proxies_of_absent_classes_have_no_gradient_when_the_batch_is_active() -> None:
    proxies = normal(4, 3, seed=1).requires_grad_()
    proxy_nca(normal(5, 3), torch.tensor([0, 2, 2, 0, 0]), proxies, active="batch").backward()
    assert torch.equal(proxies.grad[[1, 3]], torch.zeros(2, 3).double())
    assert proxies.grad[[0, 2]].abs().sum(dim=1).min() > 0


# Supervised contrastive


def test_supervised_contrastive_by_hand() -> None:
    """At temperature 1 anchors 0 and 1 choose between cosines 0 (own class) and -1, 0 (other class)."""
    by_hand = (math.log(1 + math.exp(-1)) + math.log(2)) / 3  # anchor 2 has no positive
    assert close(supervised_contrastive(THREE, TWO_AND_ONE, temperature=1), by_hand, 1e-12)


def test_supervised_contrastive_of_equal_embeddings_is_the_logarithm_of_the_others() -> None:
    assert close(supervised_contrastive(torch.ones(6, 3), torch.arange(6) % 2), math.log(5))


# Distillation


def test_distillation_by_hand() -> None:
    """Temperature 2 makes probabilities 3/4, 1/4 of logits 2 ln 3, 0; the student's are 1/2, 1/2."""
    targets = torch.tensor([[2 * math.log(3), 0.0]])
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert close(distillation(torch.zeros(1, 2), targets, temperature=2), by_hand)


def test_distillation_towards_oneself_is_zero_and_gives_the_teacher_no_gradient() -> None:
    logits = normal(4, 3).requires_grad_()
    teacher = normal(4, 3).requires_grad_()
    loss = distillation(logits, teacher)
    loss.backward()
    assert close(loss.detach(), 0, 1e-15)
    assert close(logits.grad, [[0.0] * 3] * 4, 1e-15)
    assert teacher.grad is None


def test_distillation_has_the_gradient_of_a_soft_cross_entropy() -> None:
    first, second, targets = (
        normal(4, 3).requires_grad_(),
        normal(4, 3).requires_grad_(),
        normal(4, 3, seed=1),
    )
    distillation(first, targets, temperature=2).backward()
    F.cross_entropy(second / 2, (targets / 2).softmax(dim=1)).backward()
    torch.testing.assert_close(first.grad, second.grad)


# Task decomposition

LOGITS = torch.tensor([[0.0, math.log(2), 0.0, 0.0]], dtype=torch.float64)  # exponentials sum to 5
OLD = torch.tensor([True, True, False, False])


def test_cross_entropy_is_the_task_term_plus_the_term_within_the_task() -> None:
    task_of_class = torch.tensor([0, 0, 0, 1, 1, 2])
    logits, labels = 20 * normal(64, 6), torch.arange(64) % 6
    members = task_of_class[labels][:, None] == task_of_class
    within = F.cross_entropy(logits.masked_fill(~members, -torch.inf), labels)
    total = task_term(logits, members) + within
    torch.testing.assert_close(total, F.cross_entropy(logits, labels), rtol=0, atol=1e-12)


def test_task_term_by_hand() -> None:
    """An old sample of class 1: the whole cross-entropy is ln 2.5, the part that asks for the task ln 5/3."""
    assert close(F.cross_entropy(LOGITS, torch.tensor([1])), math.log(2.5), 1e-12)
    assert close(task_term(LOGITS, OLD), math.log(5 / 3), 1e-12)


@pytest.mark.parametrize(("weight", "expected"), [(1, [-0.6, 0.4]), (2, [-0.4, 0.6])])
def test_gradient_on_new_logits_by_hand(weight: float, expected: list[float]) -> None:
    """A current sample of class 2 gives (-0.8, 0.2), an old one (0.2, 0.2) times the weight."""
    logits = LOGITS.clone().requires_grad_()
    (F.cross_entropy(logits, torch.tensor([2])) + weight * task_term(logits, OLD)).backward()
    assert close(logits.grad[0, 2:], expected, 1e-12)


def test_task_term_and_cross_entropy_teach_the_new_rows_the_same() -> None:
    features, labels, old = normal(8, 5), torch.arange(8) % 3, torch.tensor([True] * 3 + [False] * 2)
    weight_old, first = normal(3, 5, seed=1), normal(2, 5, seed=2).requires_grad_()
    second = first.detach().clone().requires_grad_()
    task_term(features @ torch.cat([weight_old, first]).T, old).backward()
    F.cross_entropy(features @ torch.cat([weight_old, second]).T, labels).backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=0, atol=1e-12)


# Quality retaining

LABEL = torch.tensor([0])


def grown(form: str = "two_sample", num_classes: int = 3, **options: bool) -> QualityRetaining:
    bank = QualityRetaining(form, **options)  # type: ignore[arg-type]
    bank.grow(num_classes, task=0)
    return bank


def row_of_loss(loss: float, num_classes: int = 3) -> Tensor:
    """Logits of one image of class 0 whose cross-entropy is this."""
    return torch.tensor([[-math.log((math.exp(loss) - 1) / (num_classes - 1))] + [0.0] * (num_classes - 1)])


def test_quality_retaining_by_hand() -> None:
    """The divergences at temperature 2 from (0, 0, 0) and (3, 2, 1) sum to 1.607257."""
    bank = grown()
    for logits in ([[0.0, 0, 0]], [[3.0, 2, 1]]):
        bank.update(torch.tensor(logits), LABEL)
    bank.task_loss.fill_(10)
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    targets = torch.tensor([[0.0, 0, 0], [3, 2, 1]])
    divergence = 4 * softened_divergence(logits.expand(2, 3), targets, temperature=2).sum()
    assert close(divergence, 1.607257)
    task_loss = 0.95 * 10 + 0.05 * F.cross_entropy(logits, LABEL).item()
    assert close(bank.loss(logits, LABEL), 1.607257 / task_loss)
    assert pytest.approx(0.167423, abs=1e-6) == 1.607257 / (0.95 * 10 + 0.05 * 2)


def test_task_loss_moves_by_a_twentieth_where_the_batch_has_the_task() -> None:
    bank = QualityRetaining()
    bank.grow(2, task=0)
    bank.grow(1, task=1)
    logits = row_of_loss(2.0)
    assert close(F.cross_entropy(logits, LABEL), 2.0)
    bank.update(logits, LABEL)
    assert close(bank.task_loss, [9.6, 10.0])


def test_loss_writes_nothing_and_bank_has_no_gradient() -> None:
    bank = grown()
    bank.update(normal(4, 3), torch.tensor([0, 1, 1, 2]))
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    logits = normal(2, 3, seed=1).requires_grad_()
    bank.loss(logits, torch.tensor([0, 2])).backward()
    assert logits.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in bank.state_dict().items())
    assert not any(value.requires_grad for value in bank.state_dict().values())


def test_bank_holds_the_last_two_vectors_and_the_last_of_a_batch() -> None:
    bank = grown()
    bank.update(torch.tensor([[1.0, 2, 3]]), torch.tensor([1]))
    bank.update(torch.tensor([[9.0, 9, 9], [4, 5, 6]]), torch.tensor([1, 1]))
    assert bank.bank_CJC[1].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert bank.bank_CJC[[0, 2]].abs().sum() == 0


def test_moving_average_by_hand() -> None:
    """From (2, 0) half way to (0, 4) is (1, 2)."""
    bank = grown("ema", num_classes=2)
    bank.update(torch.tensor([[2.0, 0.0]]), LABEL)
    assert bank.bank_CJC[0, 0].tolist() == [2, 0]  # the first vector is not averaged with nothing
    bank.update(torch.tensor([[0.0, 4.0]]), LABEL)
    assert bank.bank_CJC[0, 0].tolist() == [1, 2]


def test_moving_average_counts_twice() -> None:
    single, double = grown("ema"), grown()
    for bank in (single, double, double):
        bank.update(torch.tensor([[3.0, 2, 1]]), LABEL)
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    double.task_loss.copy_(single.task_loss)
    torch.testing.assert_close(*(bank.loss(logits, LABEL) for bank in (single, double)))


def test_unwritten_classes_are_skipped_or_pulled_to_uniform() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    loss = grown().loss(logits, LABEL)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(1, 3))
    uniform = 2 * 4 * softened_divergence(logits, torch.zeros(1, 3), temperature=2)
    task_loss = 9.5 + 0.05 * F.cross_entropy(logits, LABEL)
    as_released = grown(skip_empty=False).loss(logits, LABEL)
    torch.testing.assert_close(as_released, uniform[0] / task_loss)


@pytest.mark.parametrize("form", ["two_sample", "ema"])
def test_classes_that_came_later_do_not_count_for_older_vectors(form: str) -> None:
    bank = grown(form, num_classes=2)
    for logits in ([[3.0, 1.0]], [[3.0, 1.0]]):
        bank.update(torch.tensor(logits), LABEL)
    bank.grow(2, task=1)
    logits = torch.tensor([[5.0, 3.0, 7.0, -7.0]], requires_grad=True)  # the same as remembered, plus 2
    loss = bank.loss(logits, LABEL)
    loss.backward()
    assert close(loss.detach(), 0)
    assert logits.grad[0, 2:].tolist() == [0, 0]
    bank.update(logits, LABEL)  # now the newest vector knows all four
    assert bank.bank_CJC[0, -1, 2:].tolist() == [7, -7]
    assert bank.loss(torch.zeros(1, 4), LABEL) > 0


def test_grown_bank_of_equal_history_loads_a_saved_state() -> None:
    bank, other = grown(), grown()
    bank.update(normal(3, 3), torch.tensor([0, 1, 2]))
    other.load_state_dict(bank.state_dict())
    logits, labels = normal(2, 3, seed=1), torch.tensor([2, 0])
    assert torch.equal(bank.loss(logits, labels), other.loss(logits, labels))
