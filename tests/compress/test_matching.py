"""Show by hand and by a slow and plain way what is merged with what, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.compress.parts.matching import Matching, match, num_removable

KEYS = [[9, 9], [1, 0], [4, 1], [0, 1], [2, 0], [1, 1], [3, 2]]  # the class token, and six patches


def example(removed: int) -> tuple[Matching, Tensor, Tensor]:
    """What comes of seven tokens that are merged: how, the values, and the sizes."""
    matching = match(torch.tensor([KEYS], dtype=torch.float32), removed, 1)
    assert matching is not None
    values, ones = torch.arange(7.0).view(1, 7, 1), torch.ones(1, 7, 1)
    return matching, means(matching, values, ones), matching.added(ones)


def means(matching: Matching, tokens: Tensor, sizes: Tensor) -> Tensor:
    """What tokens of these sizes become."""
    return matching.merged(tokens, sizes / matching.unmerged(matching.added(sizes)))


@pytest.mark.parametrize(
    ("removed", "values", "sizes"),
    [
        (1, [0, 2, 6, 2.5, 3, 5], [1, 1, 1, 2, 1, 1]),
        (2, [0, 2, 2.5, 3, 5.5], [1, 1, 2, 1, 2]),
        (3, [0, 7 / 3, 3, 5.5], [1, 3, 1, 2]),
        (5, [0, 7 / 3, 3, 5.5], [1, 3, 1, 2]),  # half of the patches at most
    ],
)
def test_seven_tokens_are_merged_as_by_hand(removed: int, values: list[float], sizes: list[float]) -> None:
    _, merged, grown = example(removed)
    torch.testing.assert_close(merged.flatten(), torch.tensor(values, dtype=torch.float32))
    assert grown.flatten().tolist() == sizes


def test_each_token_gets_the_value_of_its_group_back() -> None:
    matching, merged, _ = example(2)
    assert matching.unmerged(merged).flatten().tolist() == [0, 2.5, 2, 3, 2.5, 5.5, 5.5]


def test_nothing_to_remove_is_no_matching() -> None:
    assert match(torch.randn(2, 7, 4), 0, 1) is None
    assert match(torch.randn(2, 2, 4), 8, 1) is None  # one patch has none to be merged with


def slowly(keys: Tensor, removed: int, num_prefix: int) -> list[list[int]]:
    """The groups of one image's tokens by the six steps of the paper, with loops; the first is what stays."""
    num_tokens = len(keys)
    unit = [key / key.norm() for key in keys]
    even, odd = range(0, num_tokens, 2), range(1, num_tokens, 2)
    best: dict[int, tuple[float, int]] = {}
    for a in even:
        scores = [
            (float("-inf") if min(a, b) < num_prefix else float(unit[a] @ unit[b]), -place)
            for place, b in enumerate(odd)
        ]
        score, place = max(scores)
        best[a] = (score, odd[-place])
    removed = min(removed, (num_tokens - num_prefix) // 2)
    ranked = sorted(even, key=lambda a: -best[a][0])
    merged, unmerged = ranked[:removed], sorted(ranked[removed:])
    groups = {place: [place] for place in (*unmerged, *odd)}
    for a in merged:
        groups[best[a][1]].append(a)
    in_front = [groups.pop(place) for place in range(num_prefix)]
    return [*in_front, *groups.values()]


@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("num_tokens", [12, 13, 30])
@pytest.mark.parametrize("removed", [1, 3, 100])
def test_groups_are_those_of_the_paper_s_steps(num_prefix: int, num_tokens: int, removed: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens + removed)
    keys = torch.randn(3, num_tokens, 5, generator=generator, dtype=torch.float64)
    tokens = torch.randn(3, num_tokens, 4, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 9, (3, num_tokens, 1), generator=generator).double()
    matching = match(keys, removed, num_prefix)
    assert matching is not None
    merged, grown = means(matching, tokens, sizes), matching.added(sizes)
    for image in range(3):
        groups = slowly(keys[image], removed, num_prefix)
        own, size = tokens[image], sizes[image]
        expected = [(own[group] * size[group]).sum(dim=0) / size[group].sum() for group in groups]
        torch.testing.assert_close(merged[image], torch.stack(expected))
        assert grown[image, :, 0].tolist() == [float(size[group].sum()) for group in groups]
        for place, group in enumerate(groups):
            restored = matching.unmerged(merged)[image, group]
            assert torch.equal(restored, merged[image, place].expand_as(restored))


@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
def test_sizes_add_up_to_the_number_of_tokens_after_any_number_of_merges(num_prefix: int) -> None:
    sizes = torch.ones(4, 41, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        count = sizes.shape[1]
        matching = match(torch.randn(4, count, 8, generator=generator), 7, num_prefix)
        if matching is None:
            break
        sizes = matching.added(sizes)
        assert sizes.shape[1] == count - min(7, num_removable(count, num_prefix))
        assert sizes.sum(dim=1).flatten().tolist() == [41] * 4
        assert sizes[:, :num_prefix].eq(1).all()
    assert matching is None


def test_tokens_that_nothing_is_merged_into_keep_their_bits() -> None:
    tokens = torch.randn(2, 21, 8, generator=torch.Generator().manual_seed(1))
    sizes = torch.full((2, 21, 1), 3.0)
    matching = match(tokens, 4, 1)
    assert matching is not None
    is_alone = matching.unmerged(matching.added(sizes))[..., 0] == 3
    assert torch.equal(matching.unmerged(means(matching, tokens, sizes))[is_alone], tokens[is_alone])
    assert 21 - 8 <= int(is_alone[0].sum()) < 21


def test_gradients_are_those_of_the_means() -> None:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(2, 9, 3, dtype=torch.float64, generator=generator).requires_grad_()
    sizes = torch.randint(1, 5, (2, 9, 1), generator=generator).double()
    matching = match(torch.randn(2, 9, 4, generator=generator), 3, 1)
    assert matching is not None
    assert torch.autograd.gradcheck(lambda each: means(matching, each, sizes), tokens)


def test_what_is_compared_gets_no_gradient() -> None:
    keys = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    matching = match(keys, 3, 1)
    assert matching is not None
    assert not means(matching, torch.randn(1, 9, 2), torch.ones(1, 9, 1)).requires_grad


def test_half_precision_is_that_of_the_result_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(2, 41, 16, generator=generator).bfloat16()
    sizes = torch.randint(1, 99, (2, 41, 1), generator=generator).float()
    matching = match(tokens.float(), 18, 1)
    assert matching is not None
    assert torch.equal(means(matching, tokens, sizes), means(matching, tokens.float(), sizes).bfloat16())


def test_autocast_compares_as_exactly_as_without() -> None:
    keys = F.normalize(1 + 0.01 * torch.randn(2, 41, 16, generator=torch.Generator().manual_seed(5)), dim=-1)
    plain = match(keys, 18, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = match(keys, 18, 1)
    assert plain is not None
    assert half is not None
    assert torch.equal(plain.group_BN, half.group_BN)


def test_tokens_without_direction_are_merged_like_others() -> None:
    matching = match(torch.zeros(1, 9, 4), 4, 1)
    assert matching is not None
    assert means(matching, torch.ones(1, 9, 2), torch.ones(1, 9, 1)).eq(1).all()
