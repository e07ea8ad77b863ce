"""Show that compressors and modules come in any order to the same, or refuse each other in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from clbench import petl
from clbench.backbones.backbone import Backbone
from clbench.backbones.prefix import entering, leaving
from clbench.backbones.sites import Branch, Site
from clbench.compress import Compressor
from clbench.compress.evit import EViT
from clbench.compress.parts.places import CompressError
from clbench.compress.tome import ToMe
from clbench.petl import NeedsAllTokensError, Petl
from clbench.petl.attached import Attached
from clbench.petl.parts.prompted import GivenPrefixes, GivenTokens
from clbench.quant.rtn import RoundToNearest

Opener = Callable[..., Backbone]
TOME, EVIT = ToMe(removed=2), EViT(keep=0.6)
NEEDS_ALL_TOKENS = {
    *("convpass", "convpass-attn", "lst", "noah", "sherl", "unipt"),
    *("vpt-deep", "vpt-shallow"),
}
NEEDS_A_CONVNET = {"conv-adapter"}
QUICK = {"peft.boft", "peft.lora", "peft.vera"}  # of the modules that are peft's
one_line = functools.partial(pytest.raises, match=r"^\S+ needs each token in its place, .* ssf$")


def pictures() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def attached(name: str, backbone: Backbone) -> Attached:
    """A module of a name, its tensors moved from where they started."""
    module = petl.attach(backbone, name)
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize("compressor", [TOME, EVIT], ids=["tome", "evit"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("peft.") and name not in QUICK else [])
        for name in petl.names()
        if name not in NEEDS_A_CONVNET
    ],
)
@torch.no_grad()
def test_every_module_works_in_both_orders_or_is_refused_in_both(
    transformer: Opener, name: str, compressor: Compressor
) -> None:
    backbone = transformer(embed_dim=128)  # some of peft's do not fit a narrower one
    form = compressor.compress(backbone)
    alone = backbone(pictures())
    if name in NEEDS_ALL_TOKENS:
        with one_line(NeedsAllTokensError):
            petl.attach(backbone, name)
        assert torch.equal(backbone(pictures()), alone)
        form.detach()
        petl.attach(backbone, name)
        features = backbone(pictures())
        with one_line(CompressError):
            compressor.compress(backbone)
        assert torch.equal(backbone(pictures()), features)
        return
    module = attached(name, backbone)
    features = backbone(pictures())
    assert features.isfinite().all()
    assert torch.equal(features, alone) != bool(module.num_parameters)
    form.detach()
    form = compressor.compress(backbone)
    assert torch.equal(backbone(pictures()), features)
    module.detach()
    assert torch.equal(backbone(pictures()), alone)


def test_a_module_that_is_off_is_refused_as_well(transformer: Opener) -> None:
    backbone = transformer()
    module = petl.attach(backbone, "vpt-deep")
    module.enabled = False
    with one_line(CompressError):
        TOME.compress(backbone)


def test_a_form_that_is_off_does_not_go_on_with_one(transformer: Opener) -> None:
    backbone = transformer()
    form = TOME.compress(backbone)
    form.enabled = False
    module = petl.attach(backbone, "vpt-deep")
    with one_line(CompressError):
        form.enabled = True
    module.detach()
    form.enabled = True


def test_a_degree_that_removes_nothing_takes_any_module_and_goes_no_further(transformer: Opener) -> None:
    backbone = transformer()
    form = ToMe(removed=0).compress(backbone)
    petl.attach(backbone, "vpt-deep")
    features = backbone(pictures())
    with one_line(CompressError):
        form.degree = TOME
    assert form.degree == ToMe(removed=0)
    assert torch.equal(backbone(pictures()), features)


def test_a_keep_rate_that_is_to_fall_refuses_from_the_start(transformer: Opener) -> None:
    backbone = transformer()
    evit = EViT(shrink_epochs=3)
    form = evit.compress(backbone)
    form.degree = evit.during(0)
    with one_line(NeedsAllTokensError):
        petl.attach(backbone, "vpt-deep")


def test_prompts_of_an_image_s_own_among_its_tokens_are_refused(transformer: Opener) -> None:
    backbone = transformer()
    TOME.compress(backbone)
    with pytest.raises(
        NeedsAllTokensError,
        match=r"^the strategy.s own module \(GivenTokens\) needs each token in its place.*$",
    ):
        GivenTokens(length=3).attach(backbone, torch.Generator())


@pytest.mark.parametrize("compressor", [TOME, EVIT], ids=["tome", "evit"])
@torch.no_grad()
def test_rows_of_an_image_s_own_in_front_of_keys_and_values_work(
    transformer: Opener, compressor: Compressor
) -> None:
    backbone = transformer()
    places = GivenPrefixes(num_blocks=3)
    module = places.attach(backbone, torch.Generator())
    module.enabled = False
    form = compressor.compress(backbone)
    alone = backbone(pictures())
    rows = torch.randn(2, 3, 2, 5, 32, generator=torch.Generator().manual_seed(3))
    with places.given.shown(module, rows.unbind(dim=1)):
        together = backbone(pictures())
    assert together.isfinite().all()
    assert not torch.equal(together, alone)
    assert torch.equal(backbone(pictures()), alone)
    for image in range(2):  # each with its own rows
        with places.given.shown(module, rows[image : image + 1].unbind(dim=1)):
            features = backbone(pictures()[image : image + 1])
        torch.testing.assert_close(features[0], together[image], atol=1e-5, rtol=1e-5)
    form.detach()


class FirstIsOne(Branch):
    """The first channel of each head is 1."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        return torch.cat((torch.ones_like(output[..., :1]), output[..., 1:]), dim=-1)


@dataclass(frozen=True)
class Directed(Petl):
    """Queries of which a key with little in its first channel gets no attention."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        return ((block["attn.queries"], FirstIsOne()) for block in backbone.blocks)


@pytest.mark.parametrize("compressor", [TOME, EVIT], ids=["tome", "evit"])
@torch.no_grad()
def test_rows_in_front_that_nothing_attends_to_change_nothing(
    transformer: Opener, compressor: Compressor
) -> None:
    backbone = transformer()
    Directed().attach(backbone, torch.Generator())
    places = GivenPrefixes(num_blocks=4)
    module = places.attach(backbone, torch.Generator())
    module.enabled = False
    compressor.compress(backbone)
    alone = backbone(pictures())
    rows = torch.randn(2, 2, 5, 32, generator=torch.Generator().manual_seed(3))
    with places.given.shown(module, [rows] * 4):
        assert not torch.allclose(backbone(pictures()), alone, atol=1e-3)
    rows[:, 0, :, ::16] = -1e4  # of the keys, the first channel of both heads
    with places.given.shown(module, [rows] * 4):
        torch.testing.assert_close(backbone(pictures()), alone, atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class BesideBlock(Petl):
    """The block's input, once more, beside the second block."""

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        yield backbone.blocks[1].whole, Doubled()


class Doubled(Branch):
    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        self.seen = inputs
        return output + inputs


@torch.no_grad()
def test_a_branch_beside_a_block_sees_its_input_grouped_like_its_output(transformer: Opener) -> None:
    backbone = transformer()
    module = BesideBlock().attach(backbone, torch.Generator())
    form = ToMe(blocks="2/3").compress(backbone)
    entered = entering(backbone, 1, pictures())
    backbone(pictures())
    (branch,) = module.branches
    assert branch.seen.shape == (2, 12, 32)
    assert torch.equal(branch.seen[:, 0], entered[:, 0])
    rows = [{row.numpy().tobytes() for row in tokens} for tokens in (entered[0], branch.seen[0])]
    assert 17 - 2 - 3 - 3 <= len(rows[0] & rows[1]) < 12  # the others are means
    form.detach()


@pytest.mark.parametrize("index", [0, 1, 2])
@torch.no_grad()
def test_it_can_be_computed_in_two_parts_up_to_the_first_block_that_merges(
    transformer: Opener, index: int
) -> None:
    backbone = transformer()
    form = ToMe(blocks="0/0/4/2").compress(backbone)
    petl.attach(backbone, "lora", num_blocks=4)
    assert backbone.first_changing_block == 0
    backbone.attached[0].detach()
    expected = backbone(pictures())
    assert form.first_block == 2
    value = entering(backbone, index, pictures())
    assert torch.equal(leaving(backbone, index, value), expected)
    assert torch.equal(backbone(pictures()), expected)


def test_what_is_frozen_ends_where_tokens_are_first_merged(transformer: Opener) -> None:
    backbone = transformer()
    form = ToMe(blocks="0/2").compress(backbone)

    @dataclass(frozen=True)
    class AtLast(Petl):
        def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
            yield backbone.blocks[3]["mlp"], Scaled()

    AtLast().attach(backbone, torch.Generator())
    assert backbone.first_changing_block == 1
    plain = backbone.frozen_key()
    form.enabled = False
    assert backbone.first_changing_block == 3
    assert backbone.frozen_key() != plain


class Scaled(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        return self.scale * output


@pytest.mark.parametrize("compressor", [TOME, EVIT], ids=["tome", "evit"])
@torch.no_grad()
def test_a_backbone_of_few_bits_is_compressed_in_any_order(
    transformer: Opener, compressor: Compressor
) -> None:
    backbone = transformer()
    form = compressor.compress(backbone)
    quantised = RoundToNearest(bits=8, group=16).quantise(backbone, None, torch.Generator())
    features = backbone(pictures())
    form.detach()
    form = compressor.compress(backbone)
    assert torch.equal(backbone(pictures()), features)
    quantised.detach()
    assert not torch.equal(backbone(pictures()), features)
