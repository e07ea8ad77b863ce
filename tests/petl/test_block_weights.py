"""Show that weights in the place of whole blocks' learn, merge, and leave the backbone what it was."""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.petl.attached import Attached
from clbench.petl.parts.block_weights import BlockWeights, draw_anew
from clbench.quant.rtn import RoundToNearest
from clbench.testing.generated import small_backbone


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=generator())


def attached(backbone: Backbone, blocks: range = range(1, 3)) -> Attached:
    return BlockWeights(blocks).attach(backbone, generator())


def test_a_blocks_linear_layers_have_12_c_squared_and_9_c_numbers() -> None:
    backbone = small_backbone()
    module, width = attached(backbone), backbone.width
    assert module.num_parameters == 2 * (12 * width**2 + 9 * width)
    assert module.num_branches == 2 * 4
    assert module.first_block == 1


def test_it_begins_as_what_is_there_bit_for_bit() -> None:
    backbone = small_backbone()
    before = backbone(images())
    attached(backbone)
    assert torch.equal(backbone(images()), before)


def test_merged_equals_unmerged_and_switched_off_is_what_it_was() -> None:
    backbone = small_backbone()
    before = backbone(images())
    module = attached(backbone)
    draw_anew(module, generator(1))
    beside = backbone(images())
    assert not torch.allclose(beside, before, atol=1e-3)
    module.merge()
    torch.testing.assert_close(backbone(images()), beside, atol=1e-6, rtol=1e-5)  # the same products
    module.unmerge()
    module.enabled = False
    assert torch.equal(backbone(images()), before)


def test_what_is_drawn_anew_has_a_deviation_of_a_fiftieth_and_no_bias() -> None:
    module = attached(small_backbone())
    draw_anew(module, generator(1))
    weights = torch.cat([each.detach().flatten() for each in module.parameters() if each.ndim > 1])
    assert abs(float(weights.std()) - 0.02) < 0.0005  # of 24,576 numbers: about 0.0001 by chance
    assert all(not each.any() for each in module.parameters() if each.ndim == 1)


def test_it_learns_beside_weights_of_few_bits_and_in_single_precision_beside_half() -> None:
    backbone = small_backbone()
    form = RoundToNearest(bits=4).quantise(backbone, images()[:0], generator())
    form.settle()
    low = backbone(images())
    module = attached(backbone)
    torch.testing.assert_close(backbone(images()), low)
    torch.autograd.backward(backbone(images()).square().sum())
    assert all(each.grad is not None for each in module.parameters())
    half = attached(small_backbone().to(torch.bfloat16))
    assert {each.dtype for each in half.parameters()} == {torch.float32}
