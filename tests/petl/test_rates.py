"""Show that the factor B of every low-rank update learns as much faster than A as a user says (LoRA+)."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import petl
from clbench.cli.options import options
from clbench.petl.attached import Attached
from clbench.petl.parts.two_rates import TwoRates
from clbench.petl.rates import by_rate_ratio

ONE_FACTOR = {  # of those called LoRA
    "peft.glora": "its updates are of the weight, of the bias and of their scales",
    "peft.randlora": "both factors are frozen",
    "peft.tinylora": "both factors are frozen",
    "peft.unilora": "one vector makes both factors",
    "peft.vblora": "one bank makes both factors",
}
FAMILY = [name for name in petl.names() if issubclass(petl.get(name), TwoRates)]
# What is B in each, by a word of its name.
WORDS = ("up", "key_up", "value_up", "query_up", "lora_B", "hira_B", "gralora_B", "delora_B")


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.models.VisionTransformer(16, 8, embed_dim=64, depth=1, num_heads=2, num_classes=3).eval()


def attach(name: str, ratio: float) -> tuple[nn.Module, Attached]:
    """A module whose every tensor gets a gradient: none is zero."""
    model = vit()
    module = petl.attach(model, name, b_rate_ratio=ratio)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model, module


def stepped(name: str, ratio: float) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Each tensor before a step of gradient descent at rate 0.5 and after it, and its gradient."""
    model, module = attach(name, ratio)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    torch.autograd.backward(model(images).square().mean())
    before = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    torch.optim.SGD(module.parameter_groups(0.5)).step()
    return {
        key: (before[key], parameter.detach(), parameter.grad)
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def is_b(key: str) -> bool:
    return not set(key.split(".")).isdisjoint(WORDS)


def test_all_that_is_called_lora_and_has_two_factors_has_two_rates() -> None:
    named = {name for name in petl.names() if "lora" in name}
    assert named - set(FAMILY) == set(ONE_FACTOR)
    assert set(FAMILY) - named == {"peft.hira", "peft.pissa", "peft.dora"}


@pytest.mark.parametrize("name", FAMILY)
def test_after_a_step_b_has_moved_sixteen_times_as_far_and_a_as_before(name: str) -> None:
    plain, faster = stepped(name, 1.0), stepped(name, 16.0)
    assert any(is_b(key) for key in plain)
    assert not all(is_b(key) for key in plain)
    for key, (before, after, gradient) in plain.items():
        ratio = 16 if is_b(key) or "lora_magnitude_vector" in key else 1
        exact = {"atol": 1e-8, "rtol": 1e-6}  # rounding of float32, far below what 15 rates more would move
        assert not is_b(key) or gradient.abs().max() > 1e-4 * before.abs().max()
        torch.testing.assert_close(after, before - 0.5 * gradient, **exact)
        torch.testing.assert_close(faster[key][1], before - 0.5 * ratio * gradient, **exact)


@pytest.mark.parametrize("name", FAMILY)
def test_an_option_at_its_default_is_in_no_file_and_no_key(name: str, tmp_path) -> None:
    _, module = attach(name, 1.0)
    module.save(tmp_path / "module.safetensors")
    assert b"b_rate_ratio" not in (tmp_path / "module.safetensors").read_bytes()
    assert "b_rate_ratio" not in repr(module.petl)
    assert len(by_rate_ratio([module])) == 1
    faster = dataclasses.replace(module.petl, b_rate_ratio=16.0)
    assert repr(faster) == repr(module.petl)  # features depend on values alone: their cache stays


def test_a_saved_ratio_comes_back(tmp_path) -> None:
    _, module = attach("lora", 4.0)
    module.save(tmp_path / "module.safetensors")
    assert petl.load(vit(), tmp_path / "module.safetensors").petl == module.petl


@pytest.mark.parametrize("name", FAMILY)
def test_show_tells_of_the_ratio(name: str) -> None:
    (told,) = (each for each in options(petl.get(name)) if each.name == "b_rate_ratio")
    assert (told.type, told.default) == ("float > 0", "1.0")
    assert told.comment == "learning rate of B by that of A (LoRA+); 16 in its paper"


def test_groups_hold_what_learns_in_order_and_nothing_twice() -> None:
    _, module = attach("peft.lora", 16.0)
    head = nn.Linear(2, 2)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    groups = by_rate_ratio([nn.ModuleList([module]), head, frozen])
    assert list(groups) == [1.0, 16.0]
    a, b = (parameter for parameter in module.parameters())
    assert [id(each) for each in groups[1.0]] == [id(each) for each in (a, head.weight, head.bias)]
    assert [id(each) for each in groups[16.0]] == [id(b)]
    assert module.copy().rate_ratios().keys() != module.rate_ratios().keys()
    assert list(module.copy().rate_ratios().values()) == [1.0, 16.0]
    module.requires_grad_(False)
    assert by_rate_ratio([module]) == {1.0: []}
