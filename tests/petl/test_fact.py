"""Show that FacT's increments are the products of its shared factors and cores, in both published layouts."""

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
from clbench.backbones.sites import NoSuchSiteError, Site
from clbench.petl.attached import Attached
from clbench.petl.fact_tk import Layout, Tucker, TuckerCore
from clbench.petl.fact_tt import TensorTrain
from clbench.petl.parts.factors import Factors, Increment, UnevenLayerError, sliced

BOTH = pytest.mark.parametrize("name", ["fact-tt", "fact-tk"])
WIDTH = 6
SHAPES = {"attn.qkv": (1, 3), "attn.proj": (1, 1), "mlp.fc1": (1, 4), "mlp.fc2": (4, 1)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module, size: float = 0.3) -> None:
    """Move every tensor of a module away from where it started."""
    draw = generator(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))


def opened(model: nn.Module, size: int = 16, name: str = "small") -> Backbone:
    half = (0.5, 0.5, 0.5)
    return open_model(name, model, Preprocessing(size, half, half, 1.0, "bilinear"), source="", digest="")


def small_vit(**options: Any) -> Backbone:
    """Two blocks of width 12."""
    sizes: dict[str, Any] = {"embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 0}
    vit = timm.models.VisionTransformer(16, 4, **{**sizes, **options})
    randomised(vit)
    return opened(vit.eval())


def small_swin() -> Backbone:
    swin = timm.models.SwinTransformer(
        32, 4, window_size=4, embed_dim=8, depths=(1, 2), num_heads=(2, 2), num_classes=0
    )
    randomised(swin)
    return opened(swin.eval(), 32)


def attach(backbone: Backbone, name: str, **options: Any) -> Attached:
    return petl.get(name)(**options).attach(backbone, generator())


def site(name: str, width: int = WIDTH) -> Site:
    num_inputs, num_outputs = SHAPES[name]
    layer = nn.Linear(num_inputs * width, num_outputs * width)
    return Site(name, layer, num_outputs * width)


def train(
    name: str, rank: int, *, width: int = WIDTH, scale: float = 1.0, dropout: float = 0.0
) -> TensorTrain:
    """The tensor train's increment of one layer, random."""
    factors = Factors(width, rank, generator())
    increment = TensorTrain(sliced(name, site(name, width), width), factors, scale=scale, dropout=dropout)
    randomised(factors)
    nn.init.normal_(increment.cores, generator=generator(2))
    return increment


def tucker(name: str, rank: int, layout: Layout) -> Tucker:
    """Tucker's increment of one layer, random; the same numbers in both layouts."""
    factors, core = Factors(WIDTH, rank, generator()), TuckerCore(rank, generator(1))
    layer = sliced(name, site(name), WIDTH)
    increment = Tucker(layer, factors, core, scale=1.0, dropout=0.0, layout=layout)
    randomised(factors)
    nn.init.normal_(increment.P, generator=generator(2))
    return increment


def blocks(increment: Increment) -> Tensor:
    """The increments of the layer's slices (K, D, D), for inputs as rows."""
    shape = (increment.num_outputs * WIDTH, increment.num_inputs * WIDTH)
    weight, _ = increment.merged(torch.zeros(shape), None)
    return weight.detach().T.unfold(0, WIDTH, WIDTH).unfold(1, WIDTH, WIDTH).reshape(-1, WIDTH, WIDTH)


@pytest.mark.parametrize(
    ("rank", "train_count", "tucker_count"),
    [(4, 8_448, 6_784), (8, 21_504, 13_952), (16, 61_440, 30_976), (32, 196_608, 86_528)],
)
def test_parameter_counts_are_those_of_the_paper(
    unallocated: Callable[[str], Backbone], rank: int, train_count: int, tucker_count: int
) -> None:
    backbone = unallocated("vit_base_patch16_224")
    assert attach(backbone, "fact-tt", rank=rank).num_parameters == train_count
    assert attach(backbone, "fact-tk", rank=rank).num_parameters == tucker_count
    assert petl.get("fact-tt")().rank == petl.get("fact-tk")().rank == 16


def test_a_swin_has_one_tensor_for_each_width() -> None:
    backbone = small_swin()  # one block of width 8, two of 16
    train_count = 2 * (8 + 16) * 3 + 3 * 12 * 3**2
    assert attach(backbone, "fact-tt", rank=3).num_parameters == train_count
    assert attach(backbone, "fact-tk", rank=3).num_parameters == 2 * (8 + 16) * 3 + 3 * 12 * 3 + 2 * 3**3


@BOTH
@pytest.mark.parametrize("backbone", [small_vit, small_swin])
def test_a_module_starts_as_the_identity_and_merges_to_what_it_computes(name: str, backbone: Any) -> None:
    network = backbone()
    size = network.preprocessing.image_size
    images = torch.randn(2, 3, size, size, generator=generator())
    before = network(images)
    module = attach(network, name, rank=3).eval()
    torch.testing.assert_close(network(images), before, atol=2e-6, rtol=0)
    randomised(module, size=0.1)
    trained = network(images)
    assert (trained - before).abs().max() > 1e-3
    assert torch.equal(network(images), trained)
    module.merge()
    torch.testing.assert_close(network(images), trained, atol=1e-5, rtol=1e-5)


def test_worked_example_of_a_tensor_train() -> None:
    query = train("attn.qkv", 1, width=2, scale=0.5)
    with torch.no_grad():
        query.factors.U.copy_(torch.tensor([[1.0], [2.0]]))
        query.factors.V.copy_(torch.tensor([[3.0, -1.0]]))
        query.cores.copy_(torch.tensor([[2.0, 0.0, 0.0]]))  # of q, k and v
    weight, bias = query.merged(torch.zeros(6, 2), None)
    assert bias is None
    assert weight.tolist() == [[3, 6], [-1, -2], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert query(torch.eye(2), torch.zeros(2, 6)).tolist() == [[3, -1, 0, 0, 0, 0], [6, -2, 0, 0, 0, 0]]


@pytest.mark.parametrize("name", SHAPES)
def test_every_slice_of_a_tensor_train_is_u_core_v(name: str) -> None:
    increment = train(name, 2)
    cores = increment.cores.unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 2, 2)
    expected = increment.factors.U @ cores @ increment.factors.V
    torch.testing.assert_close(blocks(increment), expected)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("layout", ["slices", "official"])
def test_what_is_computed_is_what_is_merged(name: str, layout: Layout) -> None:
    for increment in (train(name, 3), tucker(name, 3, layout)):
        layer = nn.Linear(increment.num_inputs * WIDTH, increment.num_outputs * WIDTH)
        inputs = torch.randn(2, 5, layer.in_features, generator=generator(3))
        weight, bias = increment.merged(layer.weight, layer.bias)
        expected = nn.functional.linear(inputs, weight, bias)
        torch.testing.assert_close(increment(inputs, layer(inputs)), expected, atol=1e-5, rtol=1e-5)


def mixed(increment: Tucker) -> Tensor:
    """M[a, b, k], the sum over c of C[a, b, c] P[c, k]."""
    _, core = increment.shared
    return torch.einsum("abc,ck->abk", core.get_parameter("C"), increment.P)


@pytest.mark.parametrize("name", SHAPES)
def test_every_slice_of_tuckers_formula_is_u_m_v(name: str) -> None:
    increment = tucker(name, 3, "slices")
    expected = increment.factors.U @ mixed(increment).permute(2, 0, 1) @ increment.factors.V
    torch.testing.assert_close(blocks(increment), expected)


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("name", ["mlp.fc1", "mlp.fc2"])
def test_published_layout_is_read_across_the_slices(name: str, rank: int) -> None:
    increment = tucker(name, rank, "official")
    m = mixed(increment)
    for j, block in enumerate(blocks(increment)):
        f = torch.empty(rank, rank)
        for b in range(rank):
            f[:, b] = m[:, (j * rank + b) // 4, (j * rank + b) % 4]
        core = f.T if name == "mlp.fc2" else f
        torch.testing.assert_close(block, increment.factors.U @ core @ increment.factors.V)


def test_published_layout_of_rank_four_swaps_the_last_two_indices() -> None:
    increment = tucker("mlp.fc1", 4, "official")
    core_RIR = increment.core().view(4, 4, 4)  # [a, j, b]
    torch.testing.assert_close(core_RIR, mixed(increment))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rank", [1, 2])
def test_layouts_coincide_for_attention_and_for_rank_one_and_nowhere_else(name: str, rank: int) -> None:
    official, by_slice = (blocks(tucker(name, rank, layout)) for layout in ("official", "slices"))
    assert torch.allclose(official, by_slice) == (rank == 1 or name.startswith("attn"))


@BOTH
def test_every_slice_has_the_rank_and_a_train_shares_its_spaces(name: str) -> None:
    backbone = small_vit()
    module = attach(backbone, name, rank=3)
    randomised(module)
    slices = []
    for branch in module.branches:
        shape = (branch.num_outputs * 12, branch.num_inputs * 12)
        weight, _ = branch.merged(torch.zeros(shape), None)
        slices.extend(weight.detach().T.unfold(0, 12, 12).unfold(1, 12, 12).reshape(-1, 12, 12))
    assert len(slices) == 2 * 12
    assert max(torch.linalg.matrix_rank(each, rtol=1e-4).item() for each in slices) == 3
    assert torch.linalg.matrix_rank(torch.cat(slices), rtol=1e-4) == 3
    assert torch.linalg.matrix_rank(torch.cat(slices, dim=1), rtol=1e-4) == 3


@BOTH
def test_gradient_of_the_shared_factor_is_the_sum_over_the_layers(name: str) -> None:
    backbone = small_vit(depth=1)
    module = attach(backbone, name, rank=2).eval()
    randomised(module)
    factors = module.branches[0].factors
    pairs = [
        (branch, torch.randn(3, branch.num_inputs * 12, generator=generator(3))) for branch in module.branches
    ]

    def gradient(chosen: list[tuple[Any, Tensor]]) -> Tensor:
        loss = sum(
            branch(inputs, torch.zeros(3, branch.num_outputs * 12)).square().sum()
            for branch, inputs in chosen
        )
        return torch.autograd.grad(loss, factors.U)[0]

    assert all(branch.factors is factors for branch in module.branches)
    single = [gradient([pair]) for pair in pairs]
    torch.testing.assert_close(gradient(pairs), torch.stack(single).sum(0))
    assert all(each.any() for each in single)


def test_a_copy_shares_factors_among_its_own_layers_only() -> None:
    module = attach(small_vit(), "fact-tk", rank=2)
    twin = module.copy()
    (factors,) = {id(branch.factors) for branch in twin.branches}
    (core,) = {id(branch.shared[1]) for branch in twin.branches}
    assert {factors, core} == {id(each) for each in twin.shared}
    assert not {factors, core} & {id(each) for each in module.shared}


def test_dropout_is_felt_in_training_and_off_in_evaluation() -> None:
    increment = train("mlp.fc2", 3, dropout=0.5)
    inputs, output = torch.randn(4, 4 * WIDTH, generator=generator()), torch.zeros(4, WIDTH)
    assert not torch.equal(increment(inputs, output), increment(inputs, output))
    increment.eval()
    assert torch.equal(increment(inputs, output), increment(inputs, output))


def test_start_values_have_the_bounds_of_the_published_code(unallocated: Callable[[str], Backbone]) -> None:
    backbone = unallocated("vit_tiny_patch16_224").to_empty(device="cpu")
    module = attach(backbone, "fact-tt", rank=8)
    factors = module.branches[0].factors
    assert not factors.V.any()
    assert 0.95 < factors.U.abs().max() * 192**0.5 <= 1
    fc2 = module.branches[3]
    assert 0.95 < fc2.cores.abs().max() * (4 * 8) ** 0.5 <= 1
    module = attach(backbone, "fact-tk", rank=8)
    core = module.branches[0].shared[1].get_parameter("C")
    assert 0.95 < core.abs().max() * 8 / 3**0.5 <= 1
    largest = max(branch.P.abs().max() for branch in module.branches)
    assert 0.95 < largest * ((8 + 144) / 6) ** 0.5 <= 1


@BOTH
def test_any_whole_mlp_ratio_is_cut_into_slices(name: str) -> None:
    backbone = small_vit(mlp_ratio=3, depth=1)
    module = attach(backbone, name, rank=2)
    assert [(branch.num_inputs, branch.num_outputs) for branch in module.branches] == [
        (1, 3),
        (1, 1),
        (1, 3),
        (3, 1),
    ]
    cores = 10 * 2**2 if name == "fact-tt" else 10 * 2 + 2**3
    assert module.num_parameters == 2 * 12 * 2 + cores


@BOTH
def test_a_layer_that_is_no_multiple_of_the_width_is_one_clear_line(name: str) -> None:
    with pytest.raises(
        UnevenLayerError, match=r"width 12, but block\[0\]\.mlp\.fc1 has 12 inputs and 30 out"
    ):
        attach(small_vit(mlp_ratio=2.5), name)


@BOTH
def test_a_network_without_attention_is_refused(name: str) -> None:
    convnext = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0)
    with pytest.raises(NoSuchSiteError, match=r"block\[0\] of this backbone has no site 'attn\.qkv'"):
        attach(opened(convnext, 32), name)
