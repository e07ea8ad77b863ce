"""Train a block's roundings so that its output stays as it is in float.

Block reconstruction, BRECQ (Y. Li et al., ICLR 2021, arXiv 2102.05426), as AdaLog (Z. Wu et al., ECCV 2024,
arXiv 2407.12951) does it: a block gets its inputs from the float network and learns, with Adam, which way its
weights are rounded (parts/learnt_rounding.py) and the scales of its activations, by

    mean over images and channels of the sum over tokens of squared errors, / 10,
    + 0.01 sum(1 - |2 h - 1|^beta),  beta from 20 to 2; nothing of it in the first fifth of the iterations.

Probabilities keep their scale 1. The classifier, which the paper trains by the divergence of its softmax, is
not among the blocks here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.quant.low_bit_layers import LowBitLayer, LowBitLinear
from clbench.quant.parts.learnt_rounding import LearntScale, LearntWeight
from clbench.quant.parts.observed import CHUNK, matrix_of
from clbench.quant.parts.places import Place, Stage, put
from clbench.quant.parts.rounding import Rounding

WARM_UP = 0.2  # share of the iterations
FIRST_BETA, LAST_BETA = 20.0, 2.0


@dataclass(frozen=True)
class BlockTraining:
    """How a block is trained."""

    iterations: int
    batch: int = 32
    rate: float = 1e-3  # of the weights' roundings
    scale_rate: float = 4e-5  # of activations' scales, falling to 0 as half a cosine
    push: float = 0.01  # weight of what drives the roundings to 0 and 1
    share: float = 0.1  # of the output's error

    def train(
        self,
        backbone: Backbone,
        stage: Stage,
        images: Tensor,
        layers: Mapping[str, LowBitLayer],
        roundings: Mapping[str, Rounding],
        generator: torch.Generator,
    ) -> None:
        """Train low-bit layers by their paths and roundings by their sites, all of one stage, in place."""
        learnt = {place.path: LearntLayer(place, layers[place.path]) for place in stage.places}
        scales = {name: LearntScale(each, is_fixed=_is_probs(name)) for name, each in roundings.items()}
        block, channels = _block(backbone, stage)
        inputs, targets = _passed(backbone, block, images)
        with torch.enable_grad(), _in_place(backbone, learnt, scales):
            # A layer that is a stage by itself has been replaced by what learns.
            trained = learnt.get(stage.name, block)
            every = [*scales.values(), *(layer.scale for layer in learnt.values() if layer.scale is not None)]
            weights = [layer.weight for layer in learnt.values()]
            self._descend(trained, inputs, targets, channels, weights, every, generator)
        for layer in learnt.values():
            layer.store()
        for scale in every:
            scale.store()

    def _descend(
        self,
        block: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        channels: int,
        weights: list[LearntWeight],
        scales: list[LearntScale],
        generator: torch.Generator,
    ) -> None:
        alphas = [weight.alpha for weight in weights]
        learning = [each.scale for each in scales if each.scale.requires_grad]
        optimizer = torch.optim.Adam(alphas, lr=self.rate)
        optimizer.add_param_group({"params": learning})
        for iteration in range(self.iterations):
            done = iteration / self.iterations
            optimizer.param_groups[1]["lr"] = self.scale_rate * (1 + math.cos(math.pi * done)) / 2
            some = torch.randint(len(inputs), (self.batch,), generator=generator).to(inputs.device)
            squares = (block(inputs[some]) - targets[some]).float().square().sum() / (self.batch * channels)
            loss = self.share * squares + self._indecision(weights, done)
            gradients = torch.autograd.grad(loss, [*alphas, *learning])
            for parameter, gradient in zip([*alphas, *learning], gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()

    def _indecision(self, weights: list[LearntWeight], done: float) -> Tensor | float:
        if done < WARM_UP:
            return 0.0
        share = (done - WARM_UP) / (1 - WARM_UP)
        beta = FIRST_BETA + share * (LAST_BETA - FIRST_BETA)
        return self.push * sum((weight.indecision(beta) for weight in weights), torch.zeros(()))


class LearntLayer(nn.Module):
    """What learns in the place of a low-bit layer."""

    def __init__(self, place: Place, low_bit: LowBitLayer) -> None:
        """Start from the layer in float, on the low-bit layer's grids."""
        super().__init__()
        self.low_bit = low_bit
        self.takes_off = place.source == "gelu"  # the offset, behind the product, by the sums of the weight
        ratio = low_bit.ratio if isinstance(low_bit, LowBitLinear) else None
        weight = matrix_of(place.layer)
        self.weight = LearntWeight(weight if ratio is None else weight * ratio, low_bit.stored)
        self.scale = None if low_bit.rounding is None else LearntScale(low_bit.rounding)

    def forward(self, inputs: Tensor) -> Tensor:
        """Do what the low-bit layer does, with gradients for what learns."""
        low = self.low_bit
        weight: Tensor = self.weight()
        bias = None if low.bias is None else low.bias.float()
        wide = inputs.float()
        if not isinstance(low, LowBitLinear):
            convolved: Tensor = low._conv_forward(self._rounded(wide), weight.view(low.shape), bias)
            return convolved.to(inputs.dtype)
        wide = wide if low.ratio is None else wide / low.ratio
        wide = wide if low.offset is None else wide - low.offset
        output = F.linear(self._rounded(wide), weight, bias)
        if self.takes_off and low.offset is not None:
            output = output + low.offset * weight.sum(dim=1)
        elif low.correction is not None:
            output = output + low.correction
        return output.to(inputs.dtype)

    def store(self) -> None:
        """Give the low-bit layer what was learnt."""
        low = self.low_bit
        low.stored = self.weight.stored()
        if self.takes_off and isinstance(low, LowBitLinear) and low.offset is not None:
            low.correction = low.offset * low.stored.expanded().sum(dim=1)

    def _rounded(self, inputs: Tensor) -> Tensor:
        rounded: Tensor = inputs if self.scale is None else self.scale(inputs)
        return rounded


def _block(backbone: Backbone, stage: Stage) -> tuple[nn.Module, int]:
    """Return what a stage is in the backbone, and the channels of its output."""
    if stage.name in backbone.sites:
        site = backbone.site(stage.name)
        return site, site.width
    return backbone.get_submodule(stage.name), len(stage.places[0].layer.weight)


@torch.no_grad()
def _passed(backbone: Backbone, block: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a block gets and gives of all images, in float."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(_: nn.Module, got: tuple[Tensor, ...], gave: Tensor) -> None:
        inputs.append(got[0])
        outputs.append(gave)

    handle = block.register_forward_hook(keep)
    try:
        for start in range(0, len(images), CHUNK):
            backbone(images[start : start + CHUNK].to(backbone.device))
    finally:
        handle.remove()
    return torch.cat(inputs), torch.cat(outputs)


@contextmanager
def _in_place(
    backbone: Backbone, layers: Mapping[str, nn.Module], roundings: Mapping[str, nn.Module]
) -> Iterator[None]:
    """Let a backbone compute with other layers and roundings."""
    own = {path: backbone.get_submodule(path) for path in layers}
    before = {name: backbone.site(name).rounding for name in roundings}
    try:
        for path, layer in layers.items():
            put(backbone, path, layer)
        for name, rounding in roundings.items():
            backbone.site(name).rounding = rounding
        yield
    finally:
        for path, layer in own.items():
            put(backbone, path, layer)
        for name, own_rounding in before.items():
            backbone.site(name).rounding = own_rounding


def _is_probs(name: str) -> bool:
    return name.endswith(".probs")
