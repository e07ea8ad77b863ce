"""Show that InfLoRA's updates lie where old inputs have no part, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, sight
from clbench.petl.parts.subspace import SubspaceUpdate, SubspaceUpdates, input_moments
from clbench.seeds import Seeds

WIDTH = 128  # of vit-micro


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit_micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


class Shown:
    """Images as a feed gives them: in two batches."""

    def __init__(self, seed: int) -> None:
        self.images = torch.randn(6, 3, 32, 32, generator=generator(seed)) + seed

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        return iter((sight(self.images[:4]), sight(self.images[4:])))


def update_of(old: list[float], rank: int = 1) -> SubspaceUpdate:
    """An update to which the axes marked 1 are old."""
    update = SubspaceUpdate(len(old), rank)
    update.old.copy_(torch.diag(torch.tensor(old)))
    return update


def diagonal(*energies: float) -> Tensor:
    return torch.diag(torch.tensor(energies))


@torch.no_grad()
def draw(update: SubspaceUpdate) -> None:
    """Stand in for training: A takes some value."""
    update.key_up.normal_(generator=generator(4))
    update.value_up.normal_(generator=generator(5))


def test_only_a_is_trained_184320_parameters_on_vit_b(unallocated: Callable[[str], Backbone]) -> None:
    backbone = unallocated("vit_base_patch16_224")
    strategy = strategies.get("inflora")()
    strategy.setup(backbone, petl.get("linear")(), Seeds(0))
    assert sum(p.numel() for group in strategy.trainable() for p in group["params"]) == 12 * 2 * 768 * 10


def test_directions_are_the_main_ones_of_the_inputs_beside_the_old() -> None:
    update = update_of([1.0, 0.0, 0.0])
    update.aim(diagonal(5.0, 3.0, 1.0))
    torch.testing.assert_close(update.down.abs(), torch.tensor([[0.0, 1 / math.sqrt(3), 0.0]]))


def test_where_everything_is_old_there_is_no_direction_left() -> None:
    update = update_of([1.0, 1.0, 1.0], rank=2)
    update.aim(diagonal(5.0, 3.0, 1.0))
    torch.testing.assert_close(update.down, torch.zeros(2, 3))
    update.protect(diagonal(5.0, 3.0, 1.0), 1.0)
    torch.testing.assert_close(update.old, torch.eye(3))


@pytest.mark.parametrize(
    ("share", "old"),
    [(0.0, [0, 0, 0]), (0.7, [1, 0, 0]), (0.8, [1, 1, 0]), (0.98, [1, 1, 1]), (1.0, [1, 1, 1])],
)
def test_as_many_directions_become_old_as_hold_the_share(share: float, old: list[float]) -> None:
    update = update_of([0.0, 0.0, 0.0])
    update.protect(diagonal(6.0, 3.0, 1.0), share)  # energies 36, 9 and 1 of 46
    torch.testing.assert_close(update.old, diagonal(*map(float, old)))


def test_what_is_old_already_counts_towards_the_share() -> None:
    update = update_of([1.0, 0.0, 0.0])
    update.protect(diagonal(6.0, 3.0, 1.0), 0.78)
    torch.testing.assert_close(update.old, diagonal(1.0, 0.0, 0.0))
    update.protect(diagonal(6.0, 3.0, 1.0), 0.97)
    torch.testing.assert_close(update.old, diagonal(1.0, 1.0, 0.0))


def test_moments_are_means_over_the_tokens_of_what_enters_the_layers() -> None:
    backbone, shown = vit_micro(), Shown(0)
    moments = input_moments(backbone, shown)
    model = backbone.model
    tokens = model._pos_embed(model.patch_embed(shown.images))
    for block, moment in zip(model.blocks, moments, strict=True):
        rows = block.layer.sites["norm1"](tokens).flatten(0, 1)
        torch.testing.assert_close(moment, rows.T @ rows / (6 * 17), rtol=1e-4, atol=1e-5)
        tokens = block(tokens)
    assert not any(block["attn.qkv"]._forward_pre_hooks for block in backbone.blocks)


def test_old_inputs_do_not_feel_a_new_update() -> None:
    backbone, first, second = backbones.create("vit-micro"), Shown(0), Shown(1)
    attached = SubspaceUpdates(rank=4).attach(backbone, generator())
    for update, moment in zip(attached.branches, input_moments(backbone, first), strict=True):
        update.protect(moment, 0.999)
        projection = update.old
        assert 1 < projection.trace() < WIDTH - 4
        torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-5)
    moments = input_moments(backbone, second)
    for update, moment in zip(attached.branches, moments, strict=True):
        update.aim(moment)
        draw(update)
        inputs = torch.randn(32, WIDTH, generator=generator(6))
        felt = (inputs @ update.trained().T).norm()
        old = (inputs @ update.old @ update.trained().T).norm()
        assert old < 1e-5 * felt  # float32 rounds a projection to about 1e-7 of its size
        torch.testing.assert_close(update.down @ update.down.T, torch.eye(4) / 3, rtol=0, atol=1e-5)


def test_folding_and_merging_leave_the_features_alone() -> None:
    backbone, shown = vit_micro(), Shown(1)
    base = backbone(shown.images)
    attached = SubspaceUpdates(rank=4).attach(backbone, generator())
    assert torch.equal(backbone(shown.images), base)
    for update, moment in zip(attached.branches, input_moments(backbone, shown), strict=True):
        update.aim(moment)
        draw(update)
    learnt = backbone(shown.images)
    assert (learnt - base).abs().max() > 0.01
    for update in attached.branches:
        update.fold()
        assert not update.trained().any()
    torch.testing.assert_close(backbone(shown.images), learnt)
    attached.merge()
    torch.testing.assert_close(backbone(shown.images), learnt)
    attached.detach()
    assert torch.equal(backbone(shown.images), base)


def test_an_update_leaves_the_queries_of_attention_alone() -> None:
    update = update_of([0.0, 0.0], rank=1)
    with torch.no_grad():
        update.down.copy_(torch.tensor([[1.0, 2.0]]))
        update.key_up.copy_(torch.tensor([[1.0], [0.0]]))
        update.value_up.copy_(torch.tensor([[0.0], [3.0]]))
    weight, bias = update.merged(torch.zeros(6, 2), None)
    assert bias is None
    assert weight.tolist() == [[0, 0], [0, 0], [1, 2], [0, 0], [0, 0], [3, 6]]
