"""Show that modules can be used without the rest: attached to a timm model, saved alone, loaded, composed."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clbench import petl
from clbench.errors import UserError


def model(num_classes: int = 10) -> nn.Module:
    """A small ViT of timm's with a classifier, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = timm.models.VisionTransformer
        return vit(16, 8, embed_dim=32, depth=2, num_heads=2, num_classes=num_classes).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def train(module: nn.Module, network: nn.Module) -> None:
    """Take one step of gradient descent on the module and on the classifier."""
    optimizer = torch.optim.SGD([*module.parameters(), *network.get_classifier().parameters()], 0.1)
    torch.autograd.backward(network(images()).square().mean())
    optimizer.step()


def test_two_lines_attach_a_module_that_the_models_own_call_feels() -> None:
    network = model()
    before = network(images())
    module = petl.attach(network, "ssf", std=0.0)  # gamma 1 and beta 0: the identity
    torch.testing.assert_close(network(images()), before)
    train(module, network)
    assert not torch.allclose(network(images()), before)
    assert network(images()).shape == (2, 10)
    module.detach()
    assert module.backbone(images()).shape == (2, 32)


def test_only_the_module_and_the_classifier_are_trainable() -> None:
    network = model()
    module = petl.attach(network, "lora")
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    own = [f"petl.0.{name}" for name, _ in module.named_parameters()]
    assert trainable == ["head.weight", "head.bias", *own]


@pytest.mark.parametrize("name", ["full", "bitfit"])
def test_the_classifier_is_no_part_of_a_module(name: str) -> None:
    network = model()
    module = petl.attach(network, name)
    tensors = {id(parameter) for parameter in module.parameters()}
    assert not any(id(parameter) in tensors for parameter in network.head.parameters())
    assert not any("head" in key for key in module.state_dict())


def test_a_saved_module_is_a_safetensors_file_of_its_own_tensors_and_its_options(tmp_path: Path) -> None:
    network = model()
    module = petl.attach(network, "lora", rank=3, num_blocks=2)
    train(module, network)
    module.save(tmp_path / "lora.safetensors")
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "clbench petl 1",
            "petl": "lora",
            "options": '{"rank": 3, "num_blocks": 2}',
        }
        numbers = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    assert numbers == module.num_parameters == 2 * (4 * 3 * 32 + 2)


def test_a_loaded_module_gives_what_the_saved_one_gave(tmp_path: Path) -> None:
    network = model()
    module = petl.attach(network, "adapter", rank=2)
    train(module, network)
    features = module.backbone(images())
    module.save(tmp_path / "adapter.safetensors")
    loaded = petl.load(model(), tmp_path / "adapter.safetensors")
    assert torch.equal(loaded.backbone(images()), features)
    assert loaded.petl == module.petl


def test_a_second_module_goes_to_the_backbone_of_the_first() -> None:
    network = model()
    first = petl.attach(network, "adapter")
    with pytest.raises(UserError, match="opened before; attach to the backbone of its first module"):
        petl.attach(network, "lora")
    second = petl.attach(first.backbone, "prefix")
    both = network(images())
    second.enabled = False
    assert not torch.equal(network(images()), both)


def test_merging_beside_another_module_is_refused_until_that_is_off() -> None:
    first = petl.attach(model(), "lora", seed=1)
    second = petl.attach(first.backbone, "lora", seed=2)
    with torch.no_grad():
        for parameter in [*first.parameters(), *second.parameters()]:
            parameter.add_(0.1)
    both = first.backbone(images())
    with pytest.raises(TypeError, match=r"at block\[0\].attn.qkv there is another module"):
        first.merge()
    second.enabled = False
    first.merge()
    second.enabled = True
    torch.testing.assert_close(first.backbone(images()), both, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", [("vpt-deep", "conv-adapter"), ("conv-adapter", "vpt-deep")])
def test_prompts_and_a_branch_beside_the_block_go_together_in_both_orders(order: tuple[str, str]) -> None:
    first = petl.attach(model(), order[0])
    alone = first.backbone(images())
    second = petl.attach(first.backbone, order[1])
    both = first.backbone(images())
    assert both.shape == alone.shape
    second.detach()
    assert torch.equal(first.backbone(images()), alone)


def test_modules_merged_in_the_order_attached_give_what_they_gave_unmerged() -> None:
    first = petl.attach(model(), "repadapter", seed=1)
    second = petl.attach(first.backbone, "lora-qv", seed=2)
    third = petl.attach(first.backbone, "ssf", seed=3)
    modules = (first, second, third)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    together = first.backbone(images())
    for module in modules:
        module.enabled = False
    for module in modules:
        module.enabled = True
        module.merge()
    torch.testing.assert_close(first.backbone(images()), together, atol=1e-5, rtol=1e-5)
    with pytest.raises(TypeError, match="another module was merged after this one: unmerge that first"):
        first.unmerge()
    for module in reversed(modules):
        module.unmerge()
    assert torch.equal(first.backbone(images()), together)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda file: petl.attach(model(), "lorra"), "'lorra'"),
        (lambda file: petl.attach(model(), "lora", ranc=3), "no option 'ranc'; did you mean 'rank'"),
        (lambda file: petl.attach(model(), "lora", rank=0), "petl.rank: 0 is not allowed"),
        (lambda file: petl.attach(nn.Linear(2, 2), "lora"), "cannot open a Linear"),
        (lambda file: petl.load(model(), file / "none.safetensors"), "cannot read"),
        (lambda file: petl.load(model(), file / "text.safetensors"), "cannot read"),
        (lambda file: petl.load(model(), file / "other.safetensors"), "no file that a module was saved to"),
        (lambda file: petl.load(model(), file / "wide.safetensors"), "holds lora for another backbone"),
        (lambda file: petl.load(model(), file / "nan.safetensors"), "nan.safetensors (lora): branches"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(make, line: str, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not a tensor in sight")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with torch.random.fork_rng():
        wide = timm.models.VisionTransformer(16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=0)
    module = petl.attach(wide, "lora")
    module.save(tmp_path / "wide.safetensors")
    with torch.no_grad():
        next(module.parameters())[0, 0] = torch.nan
    module.save(tmp_path / "nan.safetensors")
    with pytest.raises(UserError) as caught:
        make(tmp_path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
