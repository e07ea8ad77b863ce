"""Show that features are distilled as MDPD's formulas say: the first blocks, and masked patches."""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.learning.losses.feature_distillation import FeatureDistillation, drawn_mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses() -> FeatureDistillation:
    """From width 3 to 5, on a grid of 2 x 2 patches behind a class token."""
    return FeatureDistillation(5, 3, rank=2, grid=(2, 2), num_prefix=1, generator=generator())


def tokens(width: int, depth: int = 3) -> list[Tensor]:
    return [torch.randn(2, 5, width, generator=generator(10 * width + place)) for place in range(depth)]


MASK = torch.tensor([[True, False, True, False], [False, False, True, True]])


def test_the_pairs_and_the_generator_of_a_vit_base_count_as_specified() -> None:
    made = FeatureDistillation(768, 96, rank=32, grid=(14, 14), num_prefix=1, generator=generator())
    counted = {name: sum(each.numel() for each in part.parameters()) for name, part in made.named_children()}
    assert counted == {"imitated": 27_648, "generated": 27_648, "convolutions": 166_080}
    assert sum(each.numel() for each in made.parameters()) == 2 * 27_648 + 96 + 166_080


@torch.no_grad()
def test_the_first_third_of_the_blocks_is_imitated() -> None:
    made, side, trunk = losses(), tokens(3, depth=6), tokens(5, depth=6)
    expected = sum((made.imitated(side[place]) - trunk[place]).square().mean() for place in range(2)) / 2
    torch.testing.assert_close(made.imitation(side, trunk), expected)


@torch.no_grad()
def test_masked_patches_are_generated_from_a_token_in_their_place() -> None:
    made, side, trunk = losses(), tokens(3), tokens(5)
    made.masked.fill_(0.7)
    patches = side[2][:, 1:].clone()
    patches[MASK] = 0.7
    grid = patches.transpose(1, 2).reshape(2, 3, 2, 2)
    given = made.generated(made.convolutions(grid).flatten(2).transpose(1, 2))
    expected = (given - trunk[2][:, 1:])[MASK].square().sum() / (5 * 4)
    torch.testing.assert_close(made.generation(side, trunk, MASK), expected)


@torch.no_grad()
def test_what_is_not_masked_has_no_part_in_the_generated_loss() -> None:
    made, side, trunk = losses(), tokens(3), tokens(5)
    loss = made.generation(side, trunk, MASK)
    other = [each.clone() for each in trunk]
    other[2][:, 1:][~MASK] += 100
    other[2][:, 0] -= 100  # the class token
    other[0] += 100
    assert torch.equal(made.generation(side, other, MASK), loss)
    other[2][:, 1:][MASK] += 1
    assert not torch.equal(made.generation(side, other, MASK), loss)


def test_with_nothing_masked_the_generated_loss_is_zero() -> None:
    nothing = drawn_mask(2, (2, 2), 0.0, generator())
    assert not nothing.any()
    assert losses().generation(tokens(3), tokens(5), nothing).item() == 0


def test_each_image_has_half_of_its_patches_masked_and_not_the_same_ones() -> None:
    mask = drawn_mask(100, (4, 4), 0.5, generator())
    assert (mask.sum(dim=1) == 8).all()
    assert len(mask.unique(dim=0)) > 90
    assert torch.equal(mask, drawn_mask(100, (4, 4), 0.5, generator()))


def test_the_trunk_is_a_teacher_and_learns_nothing() -> None:
    made, side = losses(), tokens(3)
    trunk = [each.requires_grad_() for each in tokens(5)]
    (made.imitation(side, trunk) + made.generation(side, trunk, MASK)).backward()
    assert all(each.grad is None for each in trunk)
    assert all(each.grad is not None and each.grad.any() for each in made.parameters())
