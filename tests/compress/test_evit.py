"""Show which patches EViT keeps, what it makes of the others, and how its keep rate falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Switch
from clbench.compress.evit import EViT, Reorganise
from clbench.compress.parts.passing import Passing
from clbench.compress.parts.places import CompressError
from clbench.petl.prefix import PrefixTuning

DEPTH = 12  # of ViT-B/16 and DeiT-S/16, whose 224 pixels a side are 196 patches
STAGES = [3, 6, 9]
Opener = Callable[..., Backbone]


def pictures() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def reorganised(
    attention: list[float], values: list[float], keep: float, *, fuse: bool
) -> tuple[list[float], list[float]]:
    """The values behind a class token 9 that go on, and those that a branch beside the block sees."""
    passing = Passing()
    passing.seen = torch.tensor([[0.0, *attention]])
    tokens = torch.tensor([9.0, *values]).view(1, -1, 1)
    output = Reorganise(passing, keep, 1, fuse=fuse)(tokens)
    assert passing.seen is None
    assert passing.regroup is not None
    return output.flatten().tolist(), passing.regroup(2 * tokens).flatten().tolist()


def test_the_others_are_fused_as_by_hand() -> None:
    output, beside = reorganised([0.1, 0.4, 0.2, 0.3], [1, 2, 3, 4], 0.5, fuse=True)
    assert output == pytest.approx([9, 2, 4, 0.7])
    assert beside == pytest.approx([18, 4, 8, 1.4])


def test_without_fusing_they_are_dropped() -> None:
    output, beside = reorganised([0.1, 0.4, 0.2, 0.3], [1, 2, 3, 4], 0.5, fuse=False)
    assert output == [9, 2, 4]
    assert beside == [18, 4, 8]


def test_patches_of_equal_attention_keep_their_order() -> None:
    assert reorganised([0.25] * 4, [1, 2, 3, 4], 0.75, fuse=False)[0] == [9, 1, 2, 3]


@pytest.mark.parametrize(
    ("keep", "fuse", "left"),
    [
        (0.7, False, [139, 98, 69]),
        (0.7, True, [140, 100, 72]),
        (0.5, False, [99, 50, 26]),
        (0.5, True, [100, 52, 28]),
        (0.9, True, [179, 163, 148]),
        (1.0, True, [197, 197, 197]),
    ],
)
def test_tokens_behind_the_stages_are_those_of_the_paper(keep: float, fuse: bool, left: list[int]) -> None:
    counts = EViT(keep=keep, fuse=fuse).tokens_after(197, 1, DEPTH)
    assert [counts[stage] for stage in STAGES] == left
    assert [*counts[:3], counts[5], counts[8], counts[11]] == [197, 197, 197, *left]


def test_a_share_that_is_a_whole_number_of_patches_is_not_rounded_up() -> None:
    assert EViT(keep=0.07, fuse=False).tokens_after(101, 1, 4)[1] == 8  # 0.07 * 100 is 7.000000000000001


@pytest.mark.parametrize(("depth", "stages"), [(1, [0]), (2, [0, 1]), (4, [1, 2, 3]), (24, [6, 12, 18])])
def test_stages_of_another_depth_are_its_quarters(depth: int, stages: list[int]) -> None:
    counts = [1000, *EViT(fuse=False).tokens_after(1000, 1, depth)]
    assert [block for block in range(depth) if counts[block + 1] < counts[block]] == stages


def test_the_keep_rate_falls_along_a_cosine_as_by_hand() -> None:
    evit = EViT(keep=0.6, shrink_start=2, shrink_epochs=4)
    half = math.sqrt(0.5)
    rates = [1, 1, 1, 0.6 + 0.2 * (1 + half), 0.8, 0.6 + 0.2 * (1 - half), 0.6, 0.6]
    assert [degree.keep for degree in map(evit.during, range(8))] == pytest.approx(rates)
    assert evit.during(0) == EViT(keep=1.0, shrink_start=2, shrink_epochs=4)
    assert evit.during(6) is evit


def test_without_epochs_to_fall_the_rate_is_the_same_from_the_start() -> None:
    evit = EViT(shrink_start=5)
    assert evit.during(0) is evit


class Looking(Branch):
    """Changes nothing, and keeps what it sees."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        self.seen = output
        return output


def look(backbone: Backbone, site: str) -> Looking:
    branch = Looking()
    backbone.site(site).attached.append((Switch(), branch))
    return branch


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, 0), ({"distilled": True}, 0), ({"reg_tokens": 4}, 0), ({"qk_norm": True}, 0), ({}, 3)],
)
@torch.no_grad()
def test_what_the_class_token_attends_to_stays(
    transformer: Opener, options: dict[str, Any], rows: int
) -> None:
    backbone = transformer(**options)
    if rows:
        PrefixTuning(length=rows, compensated=False).attach(backbone, torch.Generator().manual_seed(0))
    probabilities = look(backbone, "block[1].attn.probs")  # explicit attention in this block
    tokens, behind = look(backbone, "block[1].between"), look(backbone, "block[1].mlp")
    EViT(keep=0.6).compress(backbone)
    backbone(pictures())
    num_prefix = backbone.blocks[1].num_prefix
    attention = probabilities.seen.mean(dim=1)[:, 0, rows + num_prefix :]
    entering = backbone.blocks[1]["norm2"].layer
    for image in range(3):
        order = attention[image].argsort(descending=True)
        patches = tokens.seen[image, num_prefix:]
        fused = attention[image, order[10:]] @ patches[order[10:]]
        kept = torch.cat((tokens.seen[image, :num_prefix], patches[order[:10]], fused[None]))
        expected = backbone.blocks[1]["mlp"].layer(entering(kept))
        torch.testing.assert_close(behind.seen[image], expected, atol=1e-5, rtol=1e-5)


def test_the_attention_of_what_is_fused_learns(transformer: Opener) -> None:
    backbone = transformer(depth=4)
    EViT(keep=0.5).compress(backbone)
    queries = torch.zeros(3, 2, 17, 16, requires_grad=True)

    class Shifted(Branch):
        def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
            return output + queries

    block = backbone.blocks[1]
    block["attn.queries"].attached.append((Switch(), Shifted()))
    block["attn.probs"].attached.append((Switch(), Cut()))  # the way through the attention itself
    torch.autograd.backward(backbone(pictures()).square().sum())
    assert queries.grad is not None
    assert queries.grad[:, :, 0].any()
    assert not queries.grad[:, :, 1:].any()


class Cut(Branch):
    """Lets no gradient through."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        return output.detach()


@torch.no_grad()
def test_a_falling_keep_rate_computes_like_each_of_its_rates(transformer: Opener) -> None:
    backbone = transformer()
    plain = backbone(pictures())
    evit = EViT(keep=0.5, shrink_epochs=3)
    form = evit.compress(backbone)
    for epoch in range(4):
        form.degree = evit.during(epoch)
        features = backbone(pictures())
        assert form.token_counts == form.degree.tokens_after(17, 1, 4)
        if epoch == 0:
            assert torch.equal(features, plain)
            assert form.moves_tokens, "a module that needs all tokens is to be refused from the start"
    assert form.token_counts == [17, 10, 7, 5]


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"global_pool": "avg", "class_token": False}])
def test_features_that_are_not_read_from_a_class_token_are_refused_in_one_line(
    transformer: Opener, options: dict[str, Any]
) -> None:
    backbone = transformer(**options)
    with pytest.raises(CompressError, match=r"^evit keeps what the class token attends to, .*use tome.*$"):
        EViT().compress(backbone)
    assert not backbone.compressed
