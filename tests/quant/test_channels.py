"""Show that one grid for all channels, with what stands around it, leaves a layer as it was in float."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.quant.parts.channels import folded, one_grid


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1


def test_worked_example() -> None:
    channels = one_grid(torch.tensor([0.1, 0.3]), torch.tensor([2.0, 4.0]))
    assert channels.scale.item() == pytest.approx(0.2)
    assert channels.zero.item() == 3
    assert channels.ratio.tolist() == pytest.approx([0.5, 1.5])
    assert channels.offset.tolist() == pytest.approx([0.2, -0.2])


def test_layer_computes_the_same_in_float() -> None:
    channels = one_grid(values(6), torch.round(15 * values(6, seed=1)))
    inputs, weight, bias = values(9, 6, seed=2), values(4, 6, seed=3), values(4, seed=4)
    reweighted = channels.of_weight(weight)
    output = F.linear(channels.of_input(inputs), reweighted, bias + channels.of_bias(reweighted))
    torch.testing.assert_close(output, F.linear(inputs, weight, bias), atol=1e-5, rtol=1e-5)


def test_norm_and_layer_compute_the_same_where_the_norm_takes_it_in() -> None:
    channels = one_grid(values(6), torch.round(15 * values(6, seed=1)))
    norm, layer = nn.LayerNorm(6), nn.Linear(6, 4)
    inputs = values(9, 6, seed=2)
    with torch.no_grad():
        norm.weight.copy_(values(6, seed=3))
        norm.bias.copy_(values(6, seed=4))
        layer.weight.copy_(values(4, 6, seed=5))
        before = layer(norm(inputs))
        for parameter, changed in zip(
            (norm.weight, norm.bias), folded(norm.weight, norm.bias, channels), strict=True
        ):
            parameter.copy_(changed)
        layer.weight.copy_(channels.of_weight(layer.weight))
        layer.bias += channels.of_bias(layer.weight)
        torch.testing.assert_close(layer(norm(inputs)), before, atol=1e-5, rtol=1e-5)


def test_ends_of_each_channels_grid_become_those_of_the_one() -> None:
    scale, zero = values(6), torch.full((6,), 5.0)
    channels = one_grid(scale, zero)
    ends = torch.tensor([0.0, 15.0])[:, None]
    moved = channels.of_input((ends - zero) * scale)
    expected = ((ends - channels.zero) * channels.scale).expand(2, 6)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)
