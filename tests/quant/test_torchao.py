"""Show that the quantisers of torchao choose and compute what torchao does, and say what they cannot do."""

from __future__ import annotations

import copy
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from clbench import quant
from clbench.backbones import BackboneOptions, create
from clbench.backbones.backbone import Backbone
from clbench.options import SpecError, build
from clbench.quant.quantised import Quantised, restored
from clbench.quant.torchao import REFUSED, TorchaoError, TorchaoMethod, imported

CASES: list[tuple[str, dict[str, object]]] = [
    ("torchao.int8", {}),
    ("torchao.int8-dynamic", {}),
    ("torchao.float8", {}),
    ("torchao.intx", {"bits": 2}),
    ("torchao.intx", {"bits": 5, "group": 32, "grid": "asymmetric"}),
    ("torchao.intx-dynamic", {"bits": 4, "group": 64}),
    ("torchao.intx-dynamic", {"bits": 8, "grid": "asymmetric"}),
]


@pytest.fixture
def torchao() -> ModuleType:
    pytest.importorskip("torchao", reason="needs torchao: pip install 'clbench[torchao]'")
    return imported()


def opened(name: str = "vit-micro") -> Backbone:
    return create(name, BackboneOptions(weights="none", image_size=32))


def method(name: str, **options: object) -> TorchaoMethod:
    made = build(quant.get(name), "quant", options)
    assert isinstance(made, TorchaoMethod)
    return made


def quantised(backbone: Backbone, made: TorchaoMethod) -> Quantised:
    return made.quantise(backbone, torch.empty(0, 3, 32, 32), torch.Generator())


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_weights_are_torchaos_and_outputs_nearly(
    name: str, options: dict[str, object], torchao: ModuleType
) -> None:
    made, backbone = method(name, **options), opened()
    places = {path: layer for path, layer in backbone.named_modules() if type(layer) is nn.Linear}
    theirs = {
        path: nn.Sequential(copy.deepcopy(layer)).requires_grad_(False) for path, layer in places.items()
    }
    config = getattr(torchao, made.config)(**made.options(torchao))
    for layer in theirs.values():
        torchao.quantize_(layer, config)
    low = quantised(backbone, made)
    assert set(low.layers) == set(places)
    with torch.no_grad():
        for path, layer in theirs.items():
            weight = layer[0].weight.dequantize()
            assert torch.equal(low.layers[path].weight, weight)
            inputs = torch.randn(3, 17, weight.shape[1])
            # both sum in single precision, in another order
            torch.testing.assert_close(low.layers[path](inputs), layer(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_form_takes_its_bits_and_can_be_restored(
    name: str, options: dict[str, object], torchao: ModuleType
) -> None:
    first, second = opened(), opened()
    low = quantised(first, method(name, **options))
    assert all(len(layer.stored.planes) == options.get("bits", 8) for layer in low.layers.values())
    again = restored(second, low.quantiser, low.described(), low.state())
    assert again.state_key() == low.state_key()
    inputs = images().requires_grad_()
    found = second(inputs)
    assert torch.equal(found, first(images()))
    found[:, 0].sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.count_nonzero() > 0


def test_every_configuration_of_torchao_is_offered_or_refused_with_a_reason(torchao: ModuleType) -> None:
    known = {name for name in dir(torchao) if name.endswith("Config")}
    offered = {method(name).config for name in quant.names() if name.startswith("torchao.")}
    assert len(offered) == 5
    assert not offered & set(REFUSED)
    assert known == offered | set(REFUSED)


@pytest.mark.slow
def test_torchao_is_imported_only_to_quantise() -> None:
    code = "import sys, clbench.quant as q; q.get('torchao.int8'); sys.exit('torchao' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_network_without_linear_layers_is_refused_in_one_line(torchao: ModuleType) -> None:
    with pytest.raises(TorchaoError, match=r"^torchao quantises linear layers, and resnet18 has none$"):
        quantised(opened("resnet18"), method("torchao.int8"))


def test_a_group_that_does_not_divide_a_row_is_refused_in_one_line(torchao: ModuleType) -> None:
    backbone = opened()
    with pytest.raises(
        TorchaoError, match=r"^model.*qkv.*: torchao cannot quantise a weight \(384, 128\): .*$"
    ):
        quantised(backbone, method("torchao.intx", group=100))
    assert not backbone.quantised


def test_without_torchao_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        TorchaoError, match=r'^this quantiser needs torchao: pip install "clbench\[torchao\]"$'
    ):
        quantised(opened(), method("torchao.int8"))


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(SpecError, match=r"^quant\.bits: [19] is not allowed"):
        method("torchao.intx", bits=bits)
