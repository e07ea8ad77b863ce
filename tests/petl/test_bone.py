"""Show that Bone and MiSS are what the paper says, number for number, and where they fit."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.creation import open_in_place
from clbench.backbones.sites import Branch, NoSuchSiteError, Site, Switch
from clbench.errors import UserError
from clbench.petl.attached import Attached
from clbench.petl.bone import BlockAffine, SharedShard
from clbench.testing import check_petl

FORMS = ("col", "row", "free", "miss", "miss-mini")
LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
WEIGHT = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def affine(blocks: Tensor) -> BlockAffine:
    """Return the branch of blocks (G, H, R, R)."""
    branch = BlockAffine(blocks.shape[0], blocks.shape[1], blocks.shape[2])
    branch.blocks.data = blocks
    return branch


def shard(values: Tensor) -> SharedShard:
    branch = SharedShard(*values.shape)
    branch.shard.data = values
    return branch


def micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def unallocated(name: str) -> Backbone:
    """A network of full size, without values."""
    with torch.device("meta"):
        return open_in_place(timm.create_model(name, num_classes=5))


@pytest.fixture(scope="module")
def vit_b16() -> Backbone:
    return unallocated("vit_base_patch16_224")


def attach(backbone: Backbone, **options: Any) -> Attached:
    return petl.get("bone")(**options).attach(backbone, torch.Generator().manual_seed(0))


def random_images() -> Tensor:
    return draw(2, 3, 32, 32)


@pytest.mark.parametrize("form", FORMS[1:])  # the first is the default, which is tested with all modules
def test_every_form_keeps_the_contract(form: str) -> None:
    check_petl(petl.get("bone")(form=form))


def test_worked_example_of_one_block_for_a_row_of_blocks() -> None:
    merged, _ = affine(torch.tensor([[[[1.0, 0], [1, 1]]]])).merged(WEIGHT, None)
    assert merged.tolist() == [[5, 4, 11, 8], [17, 13, 23, 17]]


def test_worked_example_of_a_block_for_each_column_of_blocks() -> None:
    blocks = torch.tensor([[[[1.0, 0], [1, 1]], [[0, 1], [2, 0]]]])
    merged, _ = affine(blocks).merged(WEIGHT, None)
    assert merged.tolist() == [[5, 4, 11, 8], [17, 13, 25, 15]]


def test_worked_example_of_a_shared_shard() -> None:
    merged, _ = shard(torch.tensor([[1.0, 2], [3, 4]])).merged(WEIGHT, None)
    assert merged.tolist() == [[2, 5, 4, 7], [7, 10, 9, 12]]


def test_worked_example_of_a_shard_repeated_along_the_outputs() -> None:
    merged, _ = shard(torch.tensor([[1.0], [3]])).merged(torch.zeros(2, 3), None)
    assert merged.tolist() == [[1, 3, 1], [1, 3, 1]]


@pytest.mark.parametrize(("down", "across"), [(6, 1), (1, 4), (3, 2), (1, 1), (6, 4)])
def test_each_block_of_the_weight_has_the_block_of_its_place_in_the_rectangle(down: int, across: int) -> None:
    weight, blocks = draw(12, 8), draw(down, across, 2, 2, seed=1)
    merged, _ = affine(blocks).merged(weight, None)
    for a in range(6):
        for b in range(4):
            place = slice(2 * a, 2 * a + 2), slice(2 * b, 2 * b + 2)
            own = blocks[a % down, b % across]
            torch.testing.assert_close(merged[place], weight[place] + weight[place] @ own + own)


def test_gradient_at_zero_is_the_guided_sum_over_the_blocks_that_share() -> None:
    weight, gradient = draw(6, 4), draw(6, 4, seed=1)
    for down, across in ((3, 1), (1, 2)):
        branch = affine(torch.zeros(down, across, 2, 2))
        branch.merged(weight, None)[0].backward(gradient)
        expected = torch.zeros(down, across, 2, 2)
        for a in range(3):
            for b in range(2):
                place = slice(2 * a, 2 * a + 2), slice(2 * b, 2 * b + 2)
                expected[a % down, b % across] += (weight[place] + torch.eye(2)).T @ gradient[place]
        torch.testing.assert_close(branch.blocks.grad, expected)


def test_gradient_of_a_shard_at_zero_sums_the_columns_that_share() -> None:
    gradient = draw(3, 5)
    branch = shard(torch.zeros(2, 3))
    branch.merged(torch.zeros(3, 5), None)[0].backward(gradient)
    expected = torch.stack([gradient[:, 0::2].sum(1), gradient[:, 1::2].sum(1)])
    torch.testing.assert_close(branch.shard.grad, expected)


def test_a_shard_changes_the_weight_by_at_most_rank_r_and_blocks_by_more() -> None:
    weight = draw(12, 8)
    shared, _ = shard(draw(2, 12, seed=1)).merged(weight, None)
    column, _ = affine(draw(6, 1, 2, 2, seed=1)).merged(weight, None)
    assert torch.linalg.matrix_rank(shared - weight) == 2
    assert torch.linalg.matrix_rank(column - weight) == 8


@pytest.mark.parametrize("inputs", [6, 7, 8])
@pytest.mark.parametrize("columns", [3, 12])
def test_folding_the_inputs_equals_the_dense_weight(inputs: int, columns: int) -> None:
    branch, weight, tokens = shard(draw(3, columns)), draw(12, inputs, seed=1), draw(2, 5, inputs, seed=2)
    dense, _ = branch.merged(weight, None)
    torch.testing.assert_close(branch(tokens, tokens @ weight.T), tokens @ dense.T, atol=1e-5, rtol=1e-5)


def test_modules_work_on_the_weight_that_the_one_before_has_made() -> None:
    first, second, tokens = affine(draw(2, 1, 2, 2)), affine(draw(2, 1, 2, 2, seed=1)), draw(3, 4, seed=2)
    site = linear_site(draw(4, 4, seed=3), first, second)
    one, _ = first.merged(site.layer.weight, None)
    both, _ = second.merged(one, None)
    torch.testing.assert_close(site(tokens), F.linear(tokens, both))
    apart = one + second.merged(site.layer.weight, None)[0] - site.layer.weight
    assert not torch.allclose(both, apart, atol=0.1)


def test_shards_on_one_layer_simply_add() -> None:
    first, second, tokens = shard(draw(2, 4)), shard(draw(2, 4, seed=1)), draw(3, 4, seed=2)
    weight = draw(4, 4, seed=3)
    together = shard((first.shard + second.shard).detach()).merged(weight, None)[0]
    torch.testing.assert_close(linear_site(weight, first, second)(tokens), F.linear(tokens, together))


def linear_site(weight: Tensor, *branches: Branch) -> Site:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    site = Site("site", layer, weight.shape[0])
    site.attached = [(Switch(), branch) for branch in branches]
    return site


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 1_327_104),
        ({"rank": 64}, 5_308_416),
        ({"rank": 64, "form": "miss"}, 5_308_416),
        ({"form": "miss"}, 1_327_104),
        ({"rank": 64, "form": "row"}, 4_128_768),
        ({"rank": 64, "form": "miss-mini", "columns": 32}, 48 * 64 * 32),
        ({"form": "free", "blocks_down": 4, "blocks_across": 2}, 48 * 4 * 2 * 16 * 16),
        ({"sites": "attn"}, 12 * (2304 + 768) * 16),
        ({"sites": "mlp", "form": "row"}, 12 * (768 + 3072) * 16),
    ],
)
def test_parameter_counts_of_vit_b16_are_those_of_the_formulas(
    vit_b16: Backbone, options: dict[str, Any], parameters: int
) -> None:
    attached = attach(vit_b16, **options)
    assert attached.num_parameters == parameters
    attached.detach()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny"])
def test_defaults_fit_networks_of_other_widths(name: str) -> None:
    backbone = unallocated(name)
    for form in FORMS:
        attached = attach(backbone, form=form)
        assert all(site.attached for path, site in backbone.sites.items() if path.endswith(LINEAR))
        attached.detach()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["swin", "convnext"])
def test_identity_at_the_start_and_merge_on_other_families(family: str, form: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = open_in_place(small_swin() if family == "swin" else small_convnext())
    images = random_images()
    before = backbone(images)
    attached = attach(backbone, form=form, rank=4, blocks_down=2, blocks_across=2, columns=8)
    torch.testing.assert_close(backbone(images), before, atol=1e-6, rtol=1e-6)
    for index, parameter in enumerate(attached.parameters()):
        parameter.data = 0.1 * draw(*parameter.shape, seed=index)
    changed = backbone(images)
    assert not torch.allclose(changed, before, atol=1e-3)
    attached.merge()
    torch.testing.assert_close(backbone(images), changed, atol=1e-5, rtol=1e-5)


def small_swin() -> nn.Module:
    swin = timm.models.SwinTransformer
    return swin(32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=5)


def small_convnext(**options: Any) -> nn.Module:
    sizes = {"depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16), "num_classes": 5, "ls_init_value": None}
    return timm.models.ConvNeXt(**sizes, **options)


def test_a_rank_that_does_not_divide_names_its_neighbours() -> None:
    with pytest.raises(
        UserError,
        match=r"petl\.rank: 20 does not divide 384 and 128, the widths of block\[0\]\.attn\.qkv; .* 16 or 32",
    ):
        attach(micro(), rank=20)


def test_a_rank_above_every_width_names_the_largest_that_fits() -> None:
    with pytest.raises(UserError, match=r"petl\.rank: 500 .*; use 128$"):
        attach(micro(), rank=500, form="row")


def test_rectangles_and_columns_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"petl\.blocks_down: 5 does not divide 24, the blocks down .*4 or 6$"
    ):
        attach(micro(), form="free", blocks_down=5)
    with pytest.raises(UserError, match=r"petl\.blocks_across: 3 does not divide 8, the blocks across"):
        attach(micro(), form="free", blocks_across=3)
    with pytest.raises(UserError, match=r"petl\.columns: 9 does not divide 384, .*; use 8 or 12$"):
        attach(micro(), form="miss-mini", columns=9)


def test_networks_without_such_linear_layers_are_refused() -> None:
    residual = backbones.create("slim-resnet18", BackboneOptions(weights="none"))
    with pytest.raises(
        NoSuchSiteError, match=r"^no block of slim-resnet18 has one of the linear layers attn"
    ):
        attach(residual)
    with torch.device("meta"):
        convolutional, plain = small_convnext(conv_mlp=True), small_convnext()
    with pytest.raises(NoSuchSiteError, match=r"attn\.qkv, attn\.proj, mlp\.fc1, mlp\.fc2$"):
        attach(open_in_place(convolutional))
    with pytest.raises(NoSuchSiteError, match=r"linear layers attn\.qkv, attn\.proj$"):
        attach(open_in_place(plain), sites="attn")


@pytest.mark.parametrize("form", ["free", "miss-mini"])  # one for each of the two kinds of branch
def test_compiling_changes_nothing(form: str) -> None:
    backbone = micro()
    attached = attach(backbone, form=form)
    for index, parameter in enumerate(attached.parameters()):
        parameter.data = 0.1 * draw(*parameter.shape, seed=index)
    site, tokens = backbone.blocks[0]["mlp"], draw(2, 17, 128)
    torch._dynamo.reset()
    compiled = torch.compile(site, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), site(tokens), atol=1e-6, rtol=1e-6)
