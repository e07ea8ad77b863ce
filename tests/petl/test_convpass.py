"""Show that Convpass convolves the patches, each prefix token alone, and stands where the paper puts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import petl
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import Branch, NoSuchSiteError, Site, Switch
from clbench.petl.attached import Attached
from clbench.petl.parts import bypass
from clbench.petl.parts.bypass import Bypass, TokenGridError, quick_gelu

ViT = timm.models.VisionTransformer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module, seed: int = 1) -> None:
    """Move every tensor of a module away from where it started."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed)))


def opened(model: nn.Module, size: int = 16, name: str = "small") -> Backbone:
    half = (0.5, 0.5, 0.5)
    return open_model(name, model, Preprocessing(size, half, half, 1.0, "bilinear"), source="", digest="")


def small_vit(kind: type[nn.Module] = ViT, **options: Any) -> Backbone:
    """Four patches a side, two blocks of width 12."""
    vit = kind(16, 4, embed_dim=12, depth=2, num_heads=2, num_classes=0, **options)
    randomised(vit)
    return opened(vit.eval())


def small_swin() -> Backbone:
    swin = timm.models.SwinTransformer
    return opened(swin(32, 4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 2), num_classes=0), 32)


def small_convnext(**options: Any) -> Backbone:
    convnext = timm.models.ConvNeXt
    return opened(convnext(depths=(1, 1, 1, 1), dims=(8, 8, 8, 16), num_classes=0, **options), 32)


def attach(backbone: Backbone, name: str = "convpass", **options: Any) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator())


def alone(
    width: int = 5,
    *,
    rank: int = 3,
    kernel: int = 3,
    grid: tuple[int, int] | None = (4, 5),
    num_prefix: int = 1,
    conv_init: str = "xavier",
    scale: float = 1.0,
) -> Bypass:
    """One bypass without a backbone, in evaluation mode, as it starts."""
    site = Site("mlp", None, width)
    branch = Bypass(
        site, rank=rank, kernel=kernel, scale=scale, dropout=0.1, grid=grid, num_prefix=num_prefix
    )
    branch.initialise(conv_init, generator())
    return branch.eval()


def added(branch: Bypass, tokens: Tensor) -> Tensor:
    """What the bypass adds to an output."""
    return branch(tokens, torch.zeros_like(tokens)).detach()


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("convpass", {}, 327_552),
        ("convpass-attn", {}, 163_776),
        ("convpass", {"where": "attn"}, 163_776),
        ("convpass", {"where": "mlp"}, 163_776),
        ("convpass", {"rank": 4}, 24 * (9 * 768 + 9 * 16 + 8)),
        ("convpass", {"kernel": 1}, 24 * (17 * 768 + 64 + 16)),
    ],
)
def test_parameter_counts_are_those_of_the_paper(
    unallocated: Callable[[str], Backbone], name: str, options: dict[str, Any], parameters: int
) -> None:
    assert attach(unallocated("vit_base_patch16_224"), name, **options).num_parameters == parameters


@pytest.mark.parametrize(("value", "expected"), [(-1, -0.1542), (0, 0), (1, 0.8458), (2, 1.9357)])
def test_quick_gelu_values(value: float, expected: float) -> None:
    assert quick_gelu(torch.tensor(float(value))).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    "backbone",
    [
        small_vit,
        lambda: small_vit(timm.models.deit.VisionTransformerDistilled),
        lambda: small_vit(reg_tokens=3),
        lambda: small_vit(class_token=False, global_pool="avg"),
        small_swin,
        small_convnext,
        lambda: small_convnext(conv_mlp=True),
    ],
)
def test_every_family_starts_as_the_identity_and_feels_the_trained_module(backbone: Any) -> None:
    network = backbone()
    network.eval()
    size = network.preprocessing.image_size
    images = torch.randn(2, 3, size, size, generator=generator())
    before = network(images)
    module = attach(network).eval()
    assert torch.equal(network(images), before)
    randomised(module)
    assert not torch.equal(network(images), before)


def test_scale_multiplies_what_is_added_and_evaluation_repeats_itself() -> None:
    tokens = torch.randn(2, 21, 5, generator=generator())
    silent, loud = alone(scale=0.0), alone()
    randomised(silent)
    randomised(loud)
    assert torch.equal(silent(tokens, tokens), tokens)
    twice = alone(scale=2.0)
    twice.load_state_dict(loud.state_dict())
    assert torch.equal(added(twice, tokens), 2 * added(loud, tokens))
    assert torch.equal(loud(tokens, tokens), loud(tokens, tokens))
    loud.train()
    assert not torch.equal(loud(tokens, tokens), loud(tokens, tokens))


@pytest.mark.parametrize(("place", "changed"), [((1, 2), 9), ((0, 2), 6), ((0, 0), 4), ((3, 4), 4)])
def test_a_patch_is_felt_by_its_neighbours_alone(place: tuple[int, int], changed: int) -> None:
    branch = alone()
    randomised(branch)
    tokens = torch.randn(1, 1 + 4 * 5, 5, generator=generator())
    moved = tokens.clone()
    moved[0, 1 + place[0] * 5 + place[1], 0] += 1
    differs = (added(branch, moved) != added(branch, tokens)).any(-1)[0]
    rows, columns = differs[1:].view(4, 5).nonzero(as_tuple=True)
    assert not differs[0]
    assert len(rows) == changed
    assert max(rows.sub(place[0]).abs().max(), columns.sub(place[1]).abs().max()) == 1


def test_prefix_tokens_feel_neither_patches_nor_each_other() -> None:
    branch = alone(num_prefix=2)
    randomised(branch)
    tokens = torch.randn(1, 2 + 4 * 5, 5, generator=generator())
    moved = tokens.clone()
    moved[:, 0] += 1
    differs = (added(branch, moved) != added(branch, tokens)).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == [0]
    moved = tokens.clone()
    moved[:, 2:] += 1
    assert torch.equal(added(branch, moved)[:, :2], added(branch, tokens)[:, :2])


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [(torch.ones(3, 3), [5, 10, 10, 10, 10]), (torch.eye(3)[:1].T @ torch.eye(3)[:1], [0, 0, 0, 0, 1])],
)
def test_worked_example(kernel: Tensor, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bypass, "quick_gelu", lambda tensor: tensor)
    branch = alone(width=1, rank=1, grid=(2, 2))
    with torch.no_grad():
        for one in (branch.down.weight, branch.up.weight):
            one.fill_(1)
        branch.conv.weight.copy_(kernel)
    assert added(branch, torch.tensor([5.0, 1, 2, 3, 4]).view(1, 5, 1)).flatten().tolist() == expected


def test_a_kernel_of_one_sees_no_neighbours() -> None:
    branch = alone(kernel=1)
    randomised(branch)
    tokens = torch.randn(1, 21, 5, generator=generator())
    one_pixel = alone_like(branch, num_prefix=0, grid=(1, 1))
    one_by_one = [added(one_pixel, tokens[:, [place]]) for place in range(21)]
    torch.testing.assert_close(added(branch, tokens), torch.cat(one_by_one, dim=1))


def test_a_prefix_token_is_an_image_of_one_pixel() -> None:
    branch = alone(num_prefix=2)
    randomised(branch)
    tokens = torch.randn(3, 2 + 4 * 5, 5, generator=generator())
    one_pixel = alone_like(branch, num_prefix=0, grid=(1, 1))
    for place in (0, 1):
        expected = added(one_pixel, tokens[:, [place]])
        torch.testing.assert_close(added(branch, tokens)[:, [place]], expected)


def alone_like(branch: Bypass, *, num_prefix: int, grid: tuple[int, int] | None) -> Bypass:
    twin = alone(kernel=branch.conv.kernel_size[0], num_prefix=num_prefix, grid=grid)
    twin.load_state_dict(branch.state_dict())
    return twin


@pytest.mark.parametrize(("kernel", "rank"), [(3, 8), (3, 3), (1, 2)])
def test_identity_convolution_keeps_every_pixel_whatever_the_rank(kernel: int, rank: int) -> None:
    branch = alone(kernel=kernel, rank=rank, conv_init="identity")
    maps = torch.randn(1, rank, 4, 5, generator=generator())
    assert torch.equal(branch.conv(maps), maps)


def test_random_weights_have_xaviers_bounds_and_the_rest_is_zero() -> None:
    branch = alone(width=100, rank=16)
    down, conv = (6 / (100 + 16)) ** 0.5, (6 / (2 * 16 * 9)) ** 0.5
    assert 0.9 * down < branch.down.weight.abs().max() <= down
    assert 0.9 * conv < branch.conv.weight.abs().max() <= conv
    for zero in (branch.down.bias, branch.conv.bias, branch.up.bias, branch.up.weight):
        assert not zero.any()


def test_at_the_start_a_gradient_reaches_the_last_layer_alone() -> None:
    branch = alone()
    tokens = torch.randn(2, 21, 5, generator=generator())
    branch(tokens, tokens).square().sum().backward()
    for layer in (branch.down, branch.conv):
        assert not layer.weight.grad.any()
        assert not layer.bias.grad.any()
    assert branch.up.weight.grad.any()
    assert branch.up.bias.grad.any()


def test_a_block_adds_its_bypasses_beside_layer_scale_on_the_normalised_tokens() -> None:
    vit = ViT(16, 4, embed_dim=12, depth=1, num_heads=2, num_classes=0, init_values=0.5)
    randomised(vit)
    block, tokens = vit.blocks[0].eval(), torch.randn(2, 17, 12, generator=generator())
    norm1, attn, ls1, norm2, mlp, ls2 = (
        block.get_submodule(name) for name in ("norm1", "attn", "ls1", "norm2", "mlp", "ls2")
    )
    backbone = opened(vit)
    module = attach(backbone, scale=3.0).eval()
    randomised(module)
    beside_attn, beside_mlp = module.branches
    got = backbone.blocks[0][""](tokens)
    module.enabled = False
    normal = norm1(tokens)
    tokens = tokens + ls1(attn(normal)) + added(beside_attn, normal)
    normal = norm2(tokens)
    tokens = tokens + ls2(mlp(normal)) + added(beside_mlp, normal)
    torch.testing.assert_close(got, tokens)


@pytest.mark.parametrize("layout", ["rows, columns, channels", "channels, rows, columns"])
def test_maps_are_convolved_as_the_same_patches_in_a_sequence_are(layout: str) -> None:
    sequence = alone(num_prefix=0)
    randomised(sequence)
    maps = alone_like(sequence, num_prefix=0, grid=None)
    maps.channels_first = layout.startswith("channels")
    tokens = torch.randn(2, 20, 5, generator=generator())
    expected = added(sequence, tokens).unflatten(1, (4, 5))
    inputs = tokens.unflatten(1, (4, 5))
    got = added(maps, inputs.movedim(-1, 1)).movedim(1, -1) if maps.channels_first else added(maps, inputs)
    torch.testing.assert_close(got, expected)


class Prompt(Branch):
    """Two tokens in front of the others."""

    def before(self, inputs: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(inputs[:, :2]), inputs), dim=1)


def test_tokens_that_are_no_grid_are_one_clear_line() -> None:
    backbone = small_vit()
    attach(backbone)
    backbone.blocks[0]["input"].attached.append((Switch(), Prompt()))
    with pytest.raises(
        TokenGridError, match=r"^Convpass got 19 tokens, not 1 and 4 x 4 patches: .*\(vpt\)"
    ) as caught:
        backbone(torch.zeros(1, 3, 16, 16))
    assert "\n" not in str(caught.value)


def test_a_convnext_has_the_bypass_of_the_mlp_alone() -> None:
    backbone = small_convnext()
    assert len(attach(backbone).branches) == len(backbone.blocks)
    for options in ({"name": "convpass-attn"}, {"where": "attn"}):
        with pytest.raises(NoSuchSiteError, match="has no site 'attn'; it has"):
            attach(backbone, **options)


def test_a_resnet_is_refused() -> None:
    resnet = opened(timm.create_model("resnet18", num_classes=0, channels=(8, 8, 8, 8)), 32)
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'mlp'"):
        attach(resnet)
