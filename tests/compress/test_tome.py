"""Show ToMe's numbers of tokens, its attention by size, and that merging equal tokens changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.compress.parts.passing import Passing
from clbench.compress.parts.places import CompressError
from clbench.compress.tome import BySize, ToMe
from clbench.evaluate.flops import count_flops

DEPTH, WIDTH = 12, 768  # of ViT-B/16, whose 224 pixels a side are 196 patches
FALLING = [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0]
Opener = Callable[..., Backbone]
FORMS: dict[str, dict[str, Any]] = {
    "with a class token": {},
    "with registers": {"reg_tokens": 4},
    "with a norm in front": {"pre_norm": True},
    "with norms of queries and keys": {"qk_norm": True},
    "with a distillation token": {"distilled": True},
    "of means of patches": {"global_pool": "avg"},
    "of means without class token": {"global_pool": "avg", "class_token": False},
    "of means, norm first": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "of means with registers, norm first": {"global_pool": "avg", "reg_tokens": 4, "fc_norm": False},
    "of means of all tokens": {"global_pool": "avg", "pool_include_prefix": True},
}


def pictures() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def counts(tome: ToMe) -> list[int]:
    """The tokens behind each block of ViT-B/16."""
    return tome.tokens_after(197, 1, DEPTH)


def gap(features: Tensor, reference: Tensor) -> float:
    return float((features - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"removed": 8}, 101),
        ({"removed": 13}, 41),
        ({"removed": 16}, 11),  # in the last block half of the patches are less than 16
        ({"removed": 8, "inflection": -1.0}, 106),
        ({"removed": 8, "inflection": 1.0}, 106),
        ({"removed": 0}, 197),
        ({"blocks": "16/14/13"}, 154),
    ],
)
def test_tokens_at_the_end_of_vit_b_are_those_of_the_paper(options: dict[str, Any], left: int) -> None:
    assert counts(ToMe(**options))[-1] == left


@pytest.mark.parametrize(
    ("removed", "giga"), [(0, 17.56), (4, 15.32), (8, 13.10), (12, 10.91), (13, 10.37), (16, 8.77)]
)
def test_products_of_vit_b_are_those_of_the_formula(removed: int, giga: float) -> None:
    behind = counts(ToMe(removed=removed))
    total = 196 * WIDTH**2  # the embedding of patches
    for before, after in zip([197, *behind], behind, strict=False):
        total += 4 * before * WIDTH**2 + 2 * before**2 * WIDTH + 8 * after * WIDTH**2
    assert total / 1e9 == pytest.approx(giga, abs=0.005)


def test_a_constant_number_is_the_same_in_each_block() -> None:
    assert ToMe(removed=8).numbers(DEPTH) == [8] * DEPTH


def test_numbers_fall_and_rise_as_in_the_paper() -> None:
    assert ToMe(removed=8, inflection=-1.0).numbers(DEPTH) == FALLING
    assert ToMe(removed=8, inflection=1.0).numbers(DEPTH) == FALLING[::-1]
    assert sum(FALLING) == 91
    assert ToMe(removed=8, inflection=-1.0).numbers(1) == [16]


def test_a_list_goes_on_with_zeros() -> None:
    assert ToMe(blocks="16/14/13").numbers(5) == [16, 14, 13, 0, 0]


@pytest.mark.parametrize("blocks", ["16/x", "16//3", "-1", "1/1/1/1/1"])
def test_a_list_that_is_none_is_refused_in_one_line(blocks: str, transformer: Opener) -> None:
    backbone = transformer()
    with pytest.raises(CompressError, match=r"^blocks: .* as in 16/14/13$"):
        ToMe(blocks=blocks).compress(backbone)
    assert not backbone.compressed


def test_a_plugin_knows_constant_degrees_alone() -> None:
    with pytest.raises(ValueError, match="plugin"):
        ToMe(plugin="file", inflection=-1.0)
    with pytest.raises(ValueError, match="removed: 17"):
        ToMe(plugin="file", removed=17)


def test_degrees_begin_with_none_removed() -> None:
    degrees = ToMe(proportional=False).degrees(DEPTH)
    assert [degree.tokens_after(197, 1, DEPTH)[-1] for degree in degrees] == [197, 149, 101, 53, 11]
    assert degrees[0] == ToMe(removed=0, proportional=False)
    assert ToMe(blocks="3/2").degrees(DEPTH) == [ToMe(blocks="3/2")]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_token_of_a_size_is_attended_to_like_so_many_equal_ones(transformer: Opener, count: int) -> None:
    block = transformer().blocks[0]
    tokens = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    several = torch.cat((tokens, tokens[:, -1:].expand(-1, count - 1, -1)), dim=1)
    expected = block["attn"](several)[:, :5]
    passing = Passing()
    passing.sizes = torch.tensor([1.0, 1, 1, 1, count]).view(1, 5, 1).expand(2, -1, -1)
    block["attn.bias"].tokens = BySize(passing)
    torch.testing.assert_close(block["attn"](tokens), expected, atol=1e-6, rtol=1e-6)
    passing.sizes = None
    assert torch.equal(block["attn"](several)[:, :5], expected)


def repeated(backbone: Backbone) -> Tensor:
    """Images of pairs of equal patches, side by side, which no position embedding tells apart."""
    with torch.no_grad():
        backbone.model.pos_embed.zero_()
    return pictures().unflatten(-1, (4, 8))[..., ::2, :].repeat_interleave(2, dim=-2).flatten(-2)


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_merging_equal_tokens_changes_no_feature(transformer: Opener, name: str) -> None:
    backbone = transformer(**FORMS[name])
    images = repeated(backbone)
    plain = backbone(images)
    form = ToMe(blocks="0/8").compress(backbone)  # eight pairs
    assert gap(backbone(images), plain) < 1e-5
    assert gap(backbone(pictures()), plain) > 1e-2
    assert form.token_counts[-1] == backbone.blocks[0].num_prefix + 8


@torch.no_grad()
def test_without_sizes_in_the_attention_it_does(transformer: Opener) -> None:
    backbone = transformer()
    images = repeated(backbone)
    plain = backbone(images)
    ToMe(blocks="0/8", proportional=False).compress(backbone)
    assert gap(backbone(images), plain) > 1e-4


@pytest.mark.parametrize("form", [form for form in FORMS if "of means" in form])
@torch.no_grad()
def test_features_without_class_token_are_means_by_size(transformer: Opener, form: str) -> None:
    backbone = transformer(**FORMS[form])
    ToMe(removed=3).compress(backbone)
    seen: list[Tensor] = []
    norm, last = backbone.site("norm"), backbone.blocks[-1][""]
    is_norm_first = backbone.model.norm is norm
    step = (norm if is_norm_first else last).tokens
    assert step is not None
    sizes: list[Tensor] = []

    def look(module: Any, inputs: tuple[Tensor, ...]) -> None:
        means = module if not hasattr(module, "steps") else module.steps[-1]
        seen.append(inputs[0])
        sizes.append(means.passing.sizes)

    step.register_forward_pre_hook(look)
    features = backbone(pictures())
    start = 0 if backbone.model.pool_include_prefix else backbone.blocks[-1].num_prefix
    tokens, size = seen[0][:, start:], sizes[0][:, start:]
    mean = (tokens * size).sum(dim=1) / size.sum(dim=1)
    expected = mean if is_norm_first else norm(mean)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert size.sum() == 3 * (16 if start else 16 + backbone.blocks[-1].num_prefix)


@torch.no_grad()
def test_attention_stays_fused(transformer: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = transformer()
    ToMe(removed=2).compress(backbone)
    fused, biases = torch.nn.functional.scaled_dot_product_attention, []

    def seen(*args: Any, **options: Any) -> Tensor:
        biases.append(options["attn_mask"])
        return fused(*args, **options)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", seen)
    backbone(pictures())
    assert [bias if bias is None else tuple(bias.shape) for bias in biases] == [
        None,
        (3, 1, 1, 15),
        (3, 1, 1, 13),
        (3, 1, 1, 11),
    ]


@torch.no_grad()
def test_the_operations_are_those_of_fewer_tokens(transformer: Opener) -> None:
    backbone = transformer()
    image = pictures()[:1]
    plain = count_flops(lambda: backbone(image))
    ToMe(removed=3).compress(backbone)
    expected = plain
    for before, after, a in zip((17, 14, 11, 8), (14, 11, 8, 5), (8, 6, 5, 3), strict=True):
        block = 4 * before * 32**2 + 2 * before**2 * 32 + 8 * after * 32**2
        expected += 2 * (block - (12 * 17 * 32**2 + 2 * 17**2 * 32)) + 2 * a * ((before - 1) - a) * 16
    assert count_flops(lambda: backbone(image)) == expected


@pytest.mark.parametrize("global_pool", ["map", "max"])
def test_a_pooling_that_merging_would_change_is_refused_in_one_line(
    transformer: Opener, global_pool: str
) -> None:
    options = {"class_token": False} if global_pool == "max" else {}
    backbone = transformer(global_pool=global_pool, **options)
    with pytest.raises(CompressError, match=rf"^tome: small pools its tokens by '{global_pool}'.*$"):
        ToMe().compress(backbone)
    assert not backbone.compressed


@torch.no_grad()
def test_the_first_block_that_is_another_is_the_first_that_merges(transformer: Opener) -> None:
    backbone = transformer()
    form = ToMe(blocks="0/0/3").compress(backbone)
    assert form.first_block == 2
    assert form.token_counts == [17, 17, 14, 14]
    form.enabled = False
    assert form.first_block == 4
    form.detach()
    assert ToMe(removed=0).compress(backbone).moves_tokens is False


def test_sizes_stay_exact_over_a_float64_backbone(transformer: Opener) -> None:
    backbone = transformer()
    backbone.double()
    ToMe(removed=3).compress(backbone)
    double = backbone(pictures().double())
    backbone.float()
    assert double.dtype == torch.float64
    assert 0 < gap(backbone(pictures()).double(), double) < 1e-4
