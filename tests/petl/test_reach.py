"""Show that what is done to a plain timm model is done to the module that it carries."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from clbench import petl
from clbench.backbones.sites import Branch, Site
from clbench.errors import UserError
from clbench.petl.attached import Attached
from clbench.petl.scheduled import scheduled

# One of each way to hold, share and place tensors; the others are slow tests.
QUICK = {"fact-tk", "full", "noah", "peft.dora"}
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in petl.names()]
MERGEABLE = [each for each in NAMES if petl.get(str(each.values[0])).mergeable]
HALF_CLOSE = 0.1  # what the 11 bits of float16 may add up to in two layers of random weights


def vit(seed: int = 0) -> nn.Module:
    """A small ViT of timm's with a classifier and no zeros that hide anything."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.models.VisionTransformer(16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def carrying(name: str, seed: int = 0) -> tuple[nn.Module, Attached]:
    """A model with a module that changes its output."""
    model = vit()
    module = petl.attach(model, name, seed=seed)
    shake(module, seed)
    return model, module


@torch.no_grad()
def shake(module: nn.Module, seed: int) -> None:
    """Change every parameter, as training would, and let that be over."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))
    for part in scheduled([module]):
        part.progress.fill_(1)


def close(given: Tensor, expected: Tensor, share: float) -> None:
    gap = float((given.double() - expected.double()).abs().max() / expected.double().abs().max())
    assert gap < share, f"a gap of {gap:.1e} of the largest value"


def floating(module: nn.Module) -> Iterator[Tensor]:
    return (each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_cast_reaches_the_module_and_what_it_has_put_aside(name: str) -> None:
    model, module = carrying(name)
    single = model(images())
    for cast, share in ((nn.Module.double, 1e-5), (nn.Module.half, HALF_CLOSE)):
        cast(model)
        kind = model.head.weight.dtype
        assert all(tensor.dtype == kind for tensor in floating(module))
        close(model(images().to(kind)), single, share)
        before = {id(parameter) for parameter in module.parameters()}
        module.enabled = False
        bare = cast(vit())(images().to(kind))
        assert torch.equal(model(images().to(kind)), bare)
        module.enabled = True
        close(model(images().to(kind)), single, share)
        assert {id(parameter) for parameter in module.parameters()} == before  # which an optimiser holds
    module.detach()
    assert torch.equal(model(images().half()), bare)


@pytest.mark.parametrize("name", MERGEABLE)
@torch.no_grad()
def test_a_module_merged_before_a_cast_comes_out_after_it(name: str) -> None:
    model, module = carrying(name)
    single = model(images())
    module.merge()
    close(model(images()), single, 1e-5)
    model.half()
    close(model(images().half()), single, HALF_CLOSE)
    module.unmerge()
    close(model(images().half()), single, HALF_CLOSE)
    module.detach()
    assert torch.equal(model(images().half()), vit().half()(images().half()))


@pytest.mark.parametrize("name", MERGEABLE)
@torch.no_grad()
def test_a_module_merges_in_every_precision(name: str) -> None:
    model, module = carrying(name)
    single = model(images())
    for cast, share in ((nn.Module.double, 1e-5), (nn.Module.half, HALF_CLOSE)):
        cast(model)
        kind = model.head.weight.dtype
        module.merge()
        close(model(images().to(kind)), single, share)
        module.unmerge()
        close(model(images().to(kind)), single, share)
        assert all(tensor.dtype == kind for tensor in floating(model))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_a_copy_of_the_model_is_one_of_its_own(twin_of: Callable[[nn.Module], nn.Module], name: str) -> None:
    model, module = carrying(name)
    twin = twin_of(model)
    features = model(images())
    assert torch.equal(twin(images()), features)
    for parameter in model.parameters():
        parameter.mul_(2).add_(0.1)
    assert torch.equal(twin(images()), features)
    (other,) = twin.petl
    assert type(other) is Attached
    assert other.backbone.model is twin
    other.enabled = False
    assert torch.equal(twin(images()), vit()(images()))
    assert module.enabled
    other.enabled = True
    if other.petl.mergeable:
        other.merge()
        close(twin(images()), features, 1e-5)
    other.detach()
    assert torch.equal(twin(images()), vit()(images()))
    assert list(model.petl) == [module]


def test_a_copy_of_the_module_is_one_on_a_copy_of_the_model() -> None:
    model, module = carrying("peft.dora")
    twin = copy.deepcopy(module)
    assert twin.backbone.model is not model
    assert list(twin.backbone.model.petl) == [twin]
    with torch.no_grad():
        features = model(images())
        for parameter in model.parameters():
            parameter.mul_(2)
        assert torch.equal(twin.backbone.model(images()), features)


@pytest.mark.parametrize("name", NAMES)
def test_the_mode_of_the_model_is_that_of_the_module(name: str) -> None:
    model, module = carrying(name)
    for mode in (True, False):
        model.train(mode)
        assert all(part.training == mode for part in (*module.modules(), *model.modules()))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_state_of_the_model_is_one_of_the_module_too(name: str) -> None:
    model, _ = carrying(name)
    for assign in (False, True):
        other, module = carrying(name, seed=1)
        other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True, assign=assign)
        assert torch.equal(other(images()), model(images()))
        module.enabled = False
        module.enabled = True
        assert torch.equal(other(images()), model(images()))
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values() if tensor.numel()}) == sum(
        tensor.numel() > 0 for tensor in state.values()
    )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_moving_average_of_the_model_averages_the_module(name: str) -> None:
    model, _ = carrying(name)
    average = ModelEmaV3(model, decay=0.75)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    shake(model, 2)
    average.update(model)
    for key, tensor in average.module.state_dict().items():
        after = model.state_dict()[key]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * before[key] + 0.25 * after)
    average.set(model)
    assert torch.equal(average.module(images()), model(images()))


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    model, module = carrying(name)
    model.train(name == "noah")  # of which each step draws the architecture
    wanted = {key: each for key, each in model.named_parameters() if each.requires_grad}
    gradients = []
    for on in (False, True):
        model.set_grad_checkpointing(on)
        model.zero_grad()
        torch.manual_seed(3)
        torch.autograd.backward(model(images()).square().mean())
        gradients.append({key: each.grad for key, each in wanted.items() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert (
        module.num_parameters == 0
        or any(key.startswith("petl.") for key in gradients[0])
        or module.installed()
    )
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


def picture(model: nn.Module) -> list[object]:
    """What a model is made of: parts, tensors, modes, hooks."""
    parts = [
        (name, id(part), part.training, len(part._forward_hooks)) for name, part in model.named_modules()
    ]
    tensors = [
        (name, id(tensor), tensor.requires_grad, tensor.detach().clone().numpy().tobytes())
        for name, tensor in model.state_dict(keep_vars=True).items()
    ]
    return [parts, tensors]


class Broken(Exception):
    """What goes wrong in the middle."""


def half_way(branches: Iterator[tuple[Site, Branch]]) -> Iterator[tuple[Site, Branch]]:
    yield from list(branches)[:1]
    raise Broken


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["among the branches", "at the sites", "at the end"])
def test_an_attach_that_fails_leaves_the_model_as_it_was(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = petl.get(name)

    def fail(*_: object) -> None:
        raise Broken

    def provoke() -> None:
        if where == "among the branches":
            branches = recipe.branches
            monkeypatch.setattr(recipe, "branches", lambda *given: half_way(branches(*given)))
        elif where == "at the sites":
            monkeypatch.setattr(Attached, "_settle", fail)
        else:
            monkeypatch.setattr(Attached, "enabled", property(lambda _: True, fail))

    model = vit().train()
    for model_or_backbone in (model, None):
        if model_or_backbone is None:
            model_or_backbone = petl.attach(model, "ssf").backbone
        before, output = picture(model), model(images())
        provoke()
        with pytest.raises(Broken):
            petl.attach(model_or_backbone, name)
        monkeypatch.undo()
        assert picture(model) == before
        assert torch.equal(model(images()), output)


def test_a_refusal_leaves_a_plain_model_plain() -> None:
    model = timm.create_model("resnet10t", num_classes=2)
    model.bn1.register_forward_hook(lambda *_: None)
    before = picture(model)
    with pytest.raises(UserError, match=r"has no site 'attn\.qkv'"):
        petl.attach(model, "lora-qv")
    assert picture(model) == before
    petl.attach(model, "ssf")
