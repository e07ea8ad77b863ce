"""Show that compressors keep the contract on every form of a transformer, and that breaches are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from clbench import backbones, compress, petl
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Site, TokenStep
from clbench.compress import Compressor
from clbench.compress.evit import EViT
from clbench.compress.parts.passing import Begin, Bound, Carry, Passing
from clbench.compress.parts.places import CompressError
from clbench.compress.tome import Merge, Metric, ToMe
from clbench.testing import check_compress

Opener = Callable[..., Backbone]
FORMS: dict[str, dict[str, Any]] = {
    "class token": {},
    "distilled": {"distilled": True},
    "registers": {"reg_tokens": 4},
    "norms": {"pre_norm": True, "qk_norm": True},
    "means": {"global_pool": "avg"},
    "means, norm first": {"global_pool": "avg", "class_token": False, "fc_norm": False},
}
VARIANTS = {
    "few": ToMe(removed=2),
    "many": ToMe(removed=50),
    "at last": ToMe(blocks="0/0/3"),
    "falling": ToMe(removed=2, inflection=-1.0),
    "not proportional": ToMe(removed=3, proportional=False),
    "dropping": EViT(fuse=False),
    "falling keep rate": EViT(keep=0.5, shrink_epochs=5),
}
WITHOUT_TOKENS = ("swin_tiny_patch4_window7_224", "convnext_atto", "resnet18", "mobilenetv3_small_050")


@pytest.mark.parametrize("name", compress.names())
def test_it_keeps_the_contract(name: str) -> None:
    told: list[str] = []
    check_compress(compress.get(name)(), told=told.append)
    assert len(told) == len(set(told)) == 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", compress.names())
def test_it_keeps_the_contract_on_forms_of_a_transformer(transformer: Opener, name: str, form: str) -> None:
    if name == "evit" and "means" in form:
        with pytest.raises(CompressError, match="class token"):
            check_compress(EViT(), transformer(**FORMS[form]))
        return
    check_compress(compress.get(name)(), transformer(**FORMS[form]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_options_keep_the_contract(transformer: Opener, variant: str) -> None:
    check_compress(VARIANTS[variant], transformer())


@pytest.mark.parametrize("network", WITHOUT_TOKENS)
@pytest.mark.parametrize("name", compress.names())
def test_a_network_without_a_sequence_of_tokens_is_refused_in_one_line(name: str, network: str) -> None:
    backbone = backbones.create(network, BackboneOptions(weights="none", image_size=64))
    with pytest.raises(CompressError, match=rf"^{name} needs blocks .* {network} do not; use .*vit-micro.*$"):
        compress.get(name)().compress(backbone)
    assert not any(site.tokens for site in backbone.sites.values())


@pytest.mark.parametrize("options", [{"attn_layer": "diff"}, {"block_fn": "parallel"}])
def test_a_transformer_of_other_blocks_is_refused_in_one_line(
    transformer: Opener, options: dict[str, Any]
) -> None:
    kinds = {"parallel": timm.models.vision_transformer.ParallelScalingBlock}
    options = {key: kinds.get(value, value) for key, value in options.items()}
    with pytest.raises(CompressError, match=r"^tome needs blocks that attend .*$"):
        ToMe().compress(transformer(**options))


def test_a_second_compressor_is_refused(transformer: Opener) -> None:
    backbone = transformer()
    first = ToMe(removed=2).compress(backbone)
    with pytest.raises(CompressError, match="compressed already"):
        EViT().compress(backbone)
    assert backbone.compressed == [first]


@dataclass(frozen=True)
class Bad(Compressor):
    """Merges two tokens in each block; what is changed breaks the contract."""

    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        yield backbone.site("embed"), Begin(passing)
        for block in backbone.blocks:
            yield block["attn.keys"], Metric(passing)
            yield block["between"], Merge(passing, 2, self.num_prefix(block.num_prefix))
            yield block[""], Carry(passing)

    def num_prefix(self, real: int) -> int:
        return real

    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        return [num_tokens - 2 * (block + 1) for block in range(depth)]


@dataclass(frozen=True)
class MergesTheClassToken(Bad):
    def num_prefix(self, real: int) -> int:
        return 0


@dataclass(frozen=True)
class CountsWrongly(Bad):
    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        return [num_tokens] * depth


@dataclass(frozen=True)
class HasOneKey(Bad):
    def degrees(self, depth: int) -> list[Compressor]:
        return [self, self]


class Remembered(Bound):
    """Adds something of the pass before."""

    def forward(self, output: Tensor) -> Tensor:
        before = self.passing.seen
        self.passing.seen = output.detach().mean(dim=1, keepdim=True)
        return output if before is None or len(before) != len(output) else output + before


class OfTheBatch(TokenStep):
    """Adds the mean of the batch."""

    def forward(self, output: Tensor) -> Tensor:
        return output + output.mean(dim=0, keepdim=True)


class Cut(TokenStep):
    """Lets no gradient through."""

    def forward(self, output: Tensor) -> Tensor:
        return output.detach()


def with_one_more(step: Callable[[Passing], TokenStep], name: str) -> type[Compressor]:
    """A compressor that merges as it should, and does something else at a site of the second block."""

    @dataclass(frozen=True)
    class Odd(Bad):
        def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
            yield from super().steps(backbone, passing)
            yield backbone.blocks[1][name], step(passing)

    return Odd


def test_what_merges_as_it_should_keeps_the_contract(transformer: Opener) -> None:
    check_compress(Bad(), transformer())


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (MergesTheClassToken, "at block.0..between a class, distillation or register token is changed"),
        (CountsWrongly, r"behind the blocks are \[15, 13, 11, 9\] tokens, not \[17, 17, 17, 17\]"),
        (HasOneKey, "the same state_key"),
        (
            with_one_more(lambda _: Remembered(Passing()), "attn.keys"),
            "not like beginning with it|the next|off and on",
        ),
        (with_one_more(lambda _: OfTheBatch(), "attn.keys"), "other images of its batch"),
        (with_one_more(lambda _: Cut(), ""), "no gradient reaches branches.0"),
    ],
)
def test_what_breaks_the_contract_is_named_in_one_line(
    transformer: Opener, broken: type[Compressor], told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        check_compress(broken(), transformer())


@dataclass(frozen=True)
class BeginsNothing(Compressor):
    """Like ToMe, but a pass that broke off is not forgotten."""

    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        yield from list(ToMe(removed=2).steps(backbone, passing))[1:]

    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        return ToMe(removed=2).tokens_after(num_tokens, num_prefix, depth)


def test_what_a_pass_that_broke_off_leaves_is_noticed(transformer: Opener) -> None:
    with pytest.raises(Exception, match=r"a pass that broke off|must match|should be equal"):
        check_compress(BeginsNothing(), transformer())


@dataclass(frozen=True)
class CarriesNothing(Compressor):
    """Like ToMe, but a branch beside a block sees tokens that are not there any more."""

    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        pairs = ToMe(removed=2).steps(backbone, passing)
        yield from ((site, step) for site, step in pairs if not isinstance(step, Carry))

    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        return ToMe(removed=2).tokens_after(num_tokens, num_prefix, depth)


def test_a_branch_beside_a_block_that_fails_is_noticed(transformer: Opener) -> None:
    with pytest.raises(RuntimeError, match="size of tensor"):
        check_compress(CarriesNothing(), transformer())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo:UserWarning")
@pytest.mark.parametrize("form", ["class token", "distilled", "means"])
@pytest.mark.parametrize("compressor", [ToMe(removed=2), ToMe(blocks="0/3"), EViT(), EViT(fuse=False)])
def test_compiled_in_one_graph_it_gives_the_same(
    transformer: Opener, compressor: Compressor, form: str
) -> None:
    if form == "means" and isinstance(compressor, EViT):
        pytest.skip("evit needs a class token")
    torch.compiler.reset()
    backbone = transformer(**FORMS[form])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = backbone(images)
    compressed = compressor.compress(backbone)
    module = petl.attach(backbone, "lora", num_blocks=4)
    expected = backbone(images)
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    for _ in range(2):  # no pass leaves anything to the next
        torch.testing.assert_close(compiled(images), expected, atol=1e-5, rtol=1e-5)
    torch.autograd.backward(compiled(images).square().sum())
    learnt = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    torch.autograd.backward(backbone(images).square().sum())
    for parameter, gradient in zip(module.parameters(), learnt, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-4, rtol=1e-4)
    compressed.enabled = False
    torch.testing.assert_close(compiled(images), plain, atol=1e-5, rtol=1e-5)
