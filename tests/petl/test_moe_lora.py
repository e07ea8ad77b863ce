"""Show that MoEfied LoRA is EMTAL's: balanced experts, a router that fades, and a merge when it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import NoSuchSiteError
from clbench.errors import UserError
from clbench.petl.attached import Attached
from clbench.petl.moe_lora import FADES, Fade, MoELoRA, Router
from clbench.petl.parts.balanced_kmeans import balanced_kmeans
from clbench.petl.scheduled import scheduled


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opened(model: nn.Module) -> Backbone:
    half = (0.5, 0.5, 0.5)
    return open_model("small", model, Preprocessing(32, half, half, 1.0, "bilinear"), source="", digest="")


def micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=generator())


def set_progress(attached: nn.Module, progress: float) -> None:
    for part in scheduled([attached]):
        part.progress.fill_(progress)


def learnt(backbone: Backbone, seed: int = 0, **options: object) -> Attached:
    """Attach, with visible values in every matrix."""
    attached = petl.get("moe-lora")(**options).attach(backbone, generator(seed))
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator(seed + 1)))
    return attached


def two_experts(progress: float) -> Router:
    """A router that sees log 3 and 0 in a token (1, 0), for neurons of experts 0, 1, 1, 0."""
    fade = Fade(*FADES["first_half"])
    fade.progress.fill_(progress)
    weight = torch.tensor([[5 * math.log(3), 0.0], [0.0, 0.0]])
    return Router(torch.tensor([0, 1, 1, 0]), weight, temperature=5, fade=fade)


@pytest.mark.parametrize("num_clusters", [1, 4, 16, 64])
def test_every_cluster_has_the_same_number_of_rows(num_clusters: int) -> None:
    rows = F.normalize(torch.randn(64, 8, generator=generator()), dim=1)
    labels = balanced_kmeans(rows, num_clusters, generator(1))
    assert labels.bincount().tolist() == [64 // num_clusters] * num_clusters
    assert torch.equal(labels, balanced_kmeans(rows, num_clusters, generator(1)))


def test_a_cluster_that_is_too_big_gives_away_the_row_that_is_nearest_to_the_other() -> None:
    rows = torch.tensor([0.3, 10.0, 0.0, 10.1, 0.1, 0.2])[:, None]
    labels = balanced_kmeans(rows, 2, generator())
    assert sorted(rows[labels == labels[0], 0].tolist()) == pytest.approx([0.3, 10.0, 10.1])


def test_equal_rows_are_shared_out() -> None:
    assert balanced_kmeans(torch.zeros(6, 2), 3, generator()).bincount().tolist() == [2, 2, 2]


def test_experts_are_clusters_of_directions_not_of_lengths() -> None:
    backbone = opened(timm.models.VisionTransformer(32, 8, embed_dim=4, depth=1, num_heads=1, num_classes=0))
    neurons = backbone.blocks[0]["mlp.fc1"].layer.weight
    with torch.no_grad():
        neurons.copy_(torch.eye(4).repeat(4, 1) * torch.arange(1, 17)[:, None])  # 4 directions, 16 lengths
    router = MoELoRA(num_experts=4).attach(backbone, generator()).branches[4]
    labels = router.labels.tolist()
    assert len(set(labels[:4])) == 4
    assert labels == labels[:4] * 4


def test_sorted_neurons_are_the_same_function_and_repeated_weights_the_same_gate() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, by_expert = Mlp(6, 12), Mlp(6, 12)
    labels = balanced_kmeans(F.normalize(plain.fc1.weight, dim=1), 3, generator())
    order = labels.argsort(stable=True)
    with torch.no_grad():
        by_expert.fc1.weight.copy_(plain.fc1.weight[order])
        by_expert.fc1.bias.copy_(plain.fc1.bias[order])
        by_expert.fc2.weight.copy_(plain.fc2.weight[:, order])
        by_expert.fc2.bias.copy_(plain.fc2.bias)
    tokens = torch.randn(2, 5, 6, generator=generator())
    torch.testing.assert_close(by_expert(tokens), plain(tokens), atol=1e-5, rtol=0)
    router = Router(labels, torch.randn(6, 3, generator=generator(1)), temperature=5, fade=Fade(0, 1))
    weights = 3 * (tokens @ router.weight / 5).softmax(-1)
    repeated = weights.repeat_interleave(4, dim=-1)  # 4 sorted neurons an expert
    sorted_out = by_expert.fc2(F.gelu(repeated * by_expert.fc1(tokens)))
    out = plain.fc2(F.gelu(router(tokens, plain.fc1(tokens))))
    torch.testing.assert_close(out, sorted_out, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("progress", "weights"), [(0.0, (1.5, 0.5)), (0.25, (1.25, 0.75)), (0.5, (1.0, 1.0)), (1.0, (1.0, 1.0))]
)
def test_router_of_the_worked_example(progress: float, weights: tuple[float, float]) -> None:
    token = torch.tensor([[[1.0, 0.0]]])
    gate = two_experts(progress).gate(token)[0, 0]
    first, second = weights
    torch.testing.assert_close(gate, torch.tensor([first, second, second, first]), atol=1e-6, rtol=0)
    assert gate.mean().item() == pytest.approx(1)


def test_router_weighs_bias_and_lora_too_and_before_the_non_linearity() -> None:
    backbone = opened(timm.models.VisionTransformer(32, 8, embed_dim=4, depth=1, num_heads=1, num_classes=0))
    learnt(backbone, num_experts=2, rank=3)
    sites = {name: backbone.blocks[0][name] for name in ("mlp.fc1", "mlp.fc2")}
    (_, update), (_, router) = sites["mlp.fc1"].attached
    ((_, second),) = sites["mlp.fc2"].attached
    first, last = (site.layer for site in sites.values())
    with torch.no_grad():
        router.weight.mul_(100)
    tokens = torch.randn(2, 5, 4, generator=generator())
    weights = 2 * (tokens @ router.weight / 5).softmax(-1)
    gate = torch.stack([weights[..., expert] for expert in router.labels.tolist()], dim=-1)
    hidden = F.gelu(gate * (tokens @ (first.weight.T + update.down @ update.up) + first.bias))
    expected = hidden @ (last.weight.T + second.down @ second.up) + last.bias
    assert (gate - 1).abs().max() > 0.1
    torch.testing.assert_close(backbone.blocks[0]["mlp"](tokens), expected)


@pytest.mark.parametrize(("step", "faded"), [(0, 0), (275, 0.5), (549, 549 / 550), (550, 1), (1100, 1)])
def test_router_fades_over_the_first_55_of_110_epochs(step: int, faded: float) -> None:
    fade = Fade(*FADES["first_half"])
    fade.progress.fill_(step / 1100)
    assert 1 - fade.coefficient.item() == pytest.approx(faded, abs=1e-6)


@pytest.mark.parametrize(("step", "faded"), [(0, 0), (600, 0), (850, 0.5), (1100, 1)])
def test_router_fades_over_the_last_50_of_110_epochs(step: int, faded: float) -> None:
    fade = Fade(*FADES["last"])
    fade.progress.fill_(step / 1100)
    assert 1 - fade.coefficient.item() == pytest.approx(faded, abs=1e-6)


@pytest.mark.parametrize("fade", ["first_half", "last"])
def test_a_faded_router_and_one_without_preference_are_no_router(fade: str) -> None:
    backbone = micro()
    attached = learnt(backbone, fade=fade)
    routed = backbone(images())
    set_progress(attached, 1)
    faded = backbone(images())
    routers = [branch for branch in attached.branches if isinstance(branch, Router)]
    with torch.no_grad():
        for router in routers:
            router.weight.mul_(7)
    assert torch.equal(backbone(images()), faded)
    assert not torch.allclose(routed, faded, atol=1e-3)
    set_progress(attached, 0)
    with torch.no_grad():
        for router in routers:
            router.weight.zero_()
    torch.testing.assert_close(backbone(images()), faded, atol=1e-5, rtol=1e-5)


def test_merging_is_refused_until_the_router_has_faded_and_gives_a_plain_vit_then() -> None:
    backbone = micro()
    sizes = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    attached = learnt(backbone)
    set_progress(attached, 0.3)
    before = backbone(images())
    with pytest.raises(TypeError, match=r"the router still acts \(a = 0\.4\)"):
        attached.merge()
    assert torch.equal(backbone(images()), before)
    set_progress(attached, 0.5)
    before = backbone(images())
    attached.merge()
    assert not any(site.is_active for site in backbone.sites.values())
    torch.testing.assert_close(backbone(images()), before, atol=1e-5, rtol=1e-5)
    assert {name: tensor.shape for name, tensor in backbone.state_dict().items()} == sizes


def test_b_starts_at_zero_or_as_published() -> None:
    ups = {}
    for init in ("zero_b", "official"):
        attached = petl.get("moe-lora")(init=init).attach(micro(), generator())
        ups[init] = torch.cat([value.flatten() for key, value in attached.named_parameters() if ".up" in key])
        downs = torch.cat([value.flatten() for key, value in attached.named_parameters() if "down" in key])
        assert downs.std().item() == pytest.approx(0.02, rel=0.1)
    assert not ups["zero_b"].any()
    assert ups["official"].std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("progress", [0.2, 1.0])
def test_a_saved_module_comes_back_with_its_experts_and_as_far_faded(tmp_path: Path, progress: float) -> None:
    backbone = micro()
    attached = learnt(backbone, seed=5)
    set_progress(attached, progress)
    before = backbone(images())
    attached.save(tmp_path / "module.safetensors")
    attached.detach()
    petl.load(backbone, tmp_path / "module.safetensors")
    assert torch.equal(backbone(images()), before)


@pytest.mark.parametrize(
    ("rank", "classes", "published"),
    [
        *((1, 0, 294_912), (4, 0, 737_280)),
        *((1, 598, 754_774), (2, 598, 902_230), (4, 598, 1_197_142), (4, 62, 784_958)),
    ],
)
def test_parameter_counts_are_those_of_the_paper(
    unallocated: Callable[[str], Backbone], rank: int, classes: int, published: int
) -> None:
    module = petl.get("moe-lora")(rank=rank).attach(unallocated("vit_base_patch16_224"), generator())
    assert module.num_parameters == 147_456 * (rank + 1)
    assert module.num_parameters + 769 * classes == published


def test_every_block_of_a_swin_is_adapted(unallocated: Callable[[str], Backbone]) -> None:
    backbone = unallocated("swin_tiny_patch4_window7_224")
    widths = [96] * 2 + [192] * 2 + [384] * 6 + [768] * 2
    module = petl.get("moe-lora")(rank=2).attach(backbone, generator())
    assert module.num_parameters == sum(16 * width * 2 + width * 16 for width in widths)


def test_a_convnext_has_experts_and_no_attention(unallocated: Callable[[str], Backbone]) -> None:
    widths = [96] * 3 + [192] * 3 + [384] * 9 + [768] * 3
    module = petl.get("moe-lora")(rank=2).attach(unallocated("convnext_tiny"), generator())
    assert module.num_parameters == sum(10 * width * 2 + width * 16 for width in widths)


def test_it_learns_and_merges_on_a_swin_and_a_convnext() -> None:
    swin = timm.models.SwinTransformer
    for model in (
        swin(32, 4, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=0),
        timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), num_classes=0),
    ):
        backbone = opened(model)
        attached = learnt(backbone)
        backbone(images()).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in attached.parameters())
        set_progress(attached, 1)
        before = backbone(images())
        attached.merge()
        torch.testing.assert_close(backbone(images()), before, atol=1e-5, rtol=1e-5)


def test_where_there_is_no_mlp_of_linear_layers_one_line_says_so() -> None:
    module = MoELoRA()
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'mlp.fc1'"):
        module.attach(backbones.create("slim-resnet18", BackboneOptions(weights="none")), generator())
    convnext = timm.models.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), conv_mlp=True, num_classes=0, in_chans=3
    )
    with pytest.raises(NoSuchSiteError, match=r"linear layers; block\[0\]\.mlp\.fc1 .* is a convolution"):
        module.attach(opened(convnext), generator())


@pytest.mark.parametrize(("num_experts", "near"), [(10, "8 or 16"), (600, "256"), (255, "128 or 256")])
def test_a_number_of_experts_that_does_not_divide_the_neurons_is_a_clear_error(
    num_experts: int, near: str
) -> None:
    backbone = micro()
    with pytest.raises(
        UserError, match=f"petl.num_experts: {num_experts} does not divide 256, the neurons of .*; use {near}"
    ):
        MoELoRA(num_experts=num_experts).attach(backbone, generator())
    assert not any(site.attached for site in backbone.sites.values())


@pytest.mark.slow
def test_output_is_the_same_when_compiled() -> None:
    backbone = opened(timm.models.VisionTransformer(32, 8, embed_dim=8, depth=1, num_heads=1, num_classes=0))
    attached = learnt(backbone)
    torch.compiler.reset()
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    for progress in (0, 0.25, 1):  # without compiling again, as progress is a tensor
        set_progress(attached, progress)
        with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile" if progress else "default"):
            torch.testing.assert_close(compiled(images()), backbone(images()), atol=1e-5, rtol=1e-5)
