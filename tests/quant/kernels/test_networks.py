"""Whole networks run by kernels, and take the bytes that are said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.quant.kernels import library
from clbench.quant.quantised import Quantised
from clbench.quant.rtn import RoundToNearest

HERE = library.running()

pytestmark = pytest.mark.skipif(not HERE, reason="installed without kernels, or none runs on this processor")


def quantised(name: str, bits: int, **options: int) -> tuple[Backbone, Quantised]:
    torch.manual_seed(0)
    backbone = backbones.create(name, BackboneOptions(weights="none", **options))
    form = RoundToNearest(bits=bits, group=64).quantise(backbone, None, torch.Generator().manual_seed(0))
    form.settle()
    return backbone, form


def features(backbone: Backbone, number: int = 2) -> Tensor:
    size = backbone.preprocessing.image_size
    with torch.inference_mode():
        found: Tensor = backbone(
            torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))
        )
    return found


@pytest.mark.parametrize("name", ["vit-micro", "slim-resnet18"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_features_are_about_those_of_the_portable_way(
    name: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = features(quantised(name, bits)[0])  # portable, as tests are
    for kernels in (f"{each}:{way}" for each in HERE for way in library.WAYS):
        monkeypatch.setenv(library.VARIABLE, kernels)
        found = features(quantised(name, bits)[0])
        assert float((found - wanted).norm() / wanted.norm()) < 0.05, kernels


@pytest.mark.slow
def test_vit_b_takes_two_and_a_half_bits_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, HERE[0])
    backbone, form = quantised("vit_base_patch16_224", 2, image_size=64)
    found = features(backbone)
    assert found.isfinite().all()
    of_blocks = [layer.stored for path, layer in form.layers.items() if "blocks" in path]
    assert sum(each.num_values for each in of_blocks) == 84_934_656
    assert sum(each.num_bytes for each in of_blocks) == 84_934_656 * 2.5 / 8  # 26.5 MB
    held = [each.in_order() for each in of_blocks]
    assert sum(each.num_bytes for each in held if each) == 84_934_656 * 2.5 / 8  # nothing is filled up
