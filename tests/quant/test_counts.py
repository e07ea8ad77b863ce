"""What is quantised of ViT-B/16, counted as AdaLog's authors do (arXiv 2407.12951), but for the head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.quant.adalog import AdaLog
from clbench.quant.parts.adaptive_log import AdaptiveLog
from clbench.quant.parts.places import OPERANDS, stages
from clbench.quant.parts.uniform import Uniform

BLOCKS, PATCHES, HEAD = 84_934_656, 589_824, 768_000  # weights
PAIRS = 84_712  # of a scale and a zero point, 1,000 of them the head's


def test_the_weights_of_vit_b_and_their_grids_are_as_many_as_published(
    unallocated: Callable[[str], Backbone],
) -> None:
    layers = [place.layer for stage in stages(unallocated("vit_base_patch16_224")) for place in stage.places]
    assert len(layers) == 1 + 4 * 12
    assert layers[0].weight.numel() == PATCHES
    assert sum(layer.weight.numel() for layer in layers) == PATCHES + BLOCKS
    assert sum(len(layer.weight) for layer in layers) == PAIRS - 1_000
    assert pytest.approx(43.1e6, rel=2e-3) == (PATCHES + BLOCKS + HEAD) * 4 / 8


def test_the_grids_of_a_block_are_one_for_each_input_and_one_for_each_head() -> None:
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    size = backbone.preprocessing.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    few = AdaLog(bits=4, images=2, tokens=16, rounds=1, candidates=32)
    form = few.quantise(backbone, images, torch.Generator().manual_seed(0))
    heads = backbone.blocks[0].heads
    for name in OPERANDS:
        rounding = form.roundings[f"block[0].attn.{name}"]
        if name == "probs":
            assert isinstance(rounding, AdaptiveLog)
            assert rounding.q.shape == ()
            assert float(rounding.scale) == 1
        else:
            assert isinstance(rounding, Uniform)
            assert rounding.scale.shape == rounding.zero.shape == (1, heads, 1, 1)
    of_layers = [layer.rounding for layer in form.layers.values()]
    assert of_layers[0] is None  # pixels come in as they are
    stem = 5 - 1  # convolutions in front of the blocks that see what others made, and the patches' layer
    shifted = [rounding for rounding in of_layers if isinstance(rounding, AdaptiveLog)]
    assert len(shifted) == len(backbone.blocks)  # what leaves a GELU
    even = [rounding for rounding in of_layers if isinstance(rounding, Uniform)]
    assert len(even) == 3 * len(backbone.blocks) + stem + 1
    assert {tuple(rounding.scale.shape) for rounding in even} == {()}
