"""Let a narrow side network imitate the trunk's first blocks, and generate what its last ones say.

Y. Zhang, J. Chen, H. Chen, K. Zheng, S. Liao, H. Zhong, W. Li, Y. Wang, "Memory-Efficient Transfer Learning
with Fading Side Networks via Masked Dual Path Distillation" (MDPD), CVPR 2026, arXiv 2604.09088. With tokens
z_l of the side network and h_l of the trunk behind block l, P(z) = z M_down M_up of low rank, and G two
convolutions on the grid of patches with a ReLU between,

    L_mim = mean over shallow l of mean (P_mim(z_l) - h_l)^2
    L_gen = mean over deep l of mean over masked patches of (P_gen(G(z_l with masked tokens)) - h_l)^2

where the patches that drew the largest noise are masked, another set for each image: a learnt token takes
their place. The class token is not generated. h_l has no gradient.

A reconstruction: the paper's full text and code were not available. Our choice are the first and the last
third of the blocks for shallow and deep (1..4 and 9..12 of 12), the projections' rank and that all blocks
share them, one mask for all deep blocks of an image, and a generator of the side network's width. The masks
and the loss on masked patches alone are those of ViTKD (Z. Yang et al., arXiv 2209.02432).

Shape letters: B batch, N tokens, P patches, D width of the trunk, E of the side network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from clbench.kinds import HasKinds
from clbench.learning.losses.precision import full_precision
from clbench.petl.parts.initialise import kaiming_uniform

L = TypeVar("L", nn.Linear, nn.Conv2d)
KERNEL = 3


class FeatureDistillation(HasKinds):
    """P_mim and P_gen, the masked token and G."""

    kinds: ClassVar[dict[str, str]] = {"": "modules"}
    to_learn: ClassVar[tuple[str, ...]] = ("imitated", "generated", "masked", "convolutions")

    def __init__(
        self,
        width: int,
        side_width: int,
        *,
        rank: int,
        grid: tuple[int, int],
        num_prefix: int,
        generator: torch.Generator,
    ) -> None:
        """Draw all layers; ``num_prefix`` tokens stand before the patches of the ``grid``."""
        super().__init__()
        self.imitated, self.generated = (
            nn.Sequential(_matrix(side_width, rank, generator), _matrix(rank, width, generator))
            for _ in range(2)
        )
        self.masked = nn.Parameter(torch.zeros(side_width))
        first, second = (_convolution(side_width, generator) for _ in range(2))
        self.convolutions = nn.Sequential(first, nn.ReLU(), second)
        self.grid, self.num_prefix = grid, num_prefix

    def imitation(self, side: Sequence[Tensor], trunk: Sequence[Tensor]) -> Tensor:
        """Return L_mim of tokens (B, N, E) and (B, N, D) behind the same blocks, all of them."""
        third = _third(len(side))
        pairs = zip(side[:third], trunk[:third], strict=True)
        return torch.stack([_squares(self.imitated(z), h).mean() for z, h in pairs]).mean()

    def generation(self, side: Sequence[Tensor], trunk: Sequence[Tensor], is_masked_BP: Tensor) -> Tensor:
        """Return L_gen of tokens behind the same blocks, all of them; 0 where nothing is masked."""
        third = _third(len(side))
        pairs = list(zip(side[-third:], trunk[-third:], strict=True))
        if not is_masked_BP.any():
            return pairs[0][0].new_zeros(())
        return torch.stack([self._generation(z, h, is_masked_BP) for z, h in pairs]).mean()

    def _generation(self, side: Tensor, trunk: Tensor, is_masked_BP: Tensor) -> Tensor:
        z_BPE, h_BPD = side[:, self.num_prefix :], trunk[:, self.num_prefix :]
        z_BPE = torch.where(is_masked_BP[..., None], self.masked.to(z_BPE.dtype), z_BPE)
        made = self.convolutions(z_BPE.mT.reshape(*z_BPE.mT.shape[:2], *self.grid)).flatten(2).mT
        error_BP = _squares(self.generated(made), h_BPD).mean(dim=-1)
        return (error_BP * is_masked_BP).sum() / is_masked_BP.sum()


def drawn_mask(batch: int, grid: tuple[int, int], rate: float, generator: torch.Generator) -> Tensor:
    """Return which patches are masked, (B, P): of each image the share with the largest noise."""
    noise_BP = torch.rand(batch, grid[0] * grid[1], generator=generator)
    largest = noise_BP.topk(int(rate * noise_BP.shape[1]), dim=1).indices
    return torch.zeros_like(noise_BP, dtype=torch.bool).scatter_(1, largest, value=True)


def _squares(made: Tensor, wanted: Tensor) -> Tensor:
    return (full_precision(made) - full_precision(wanted.detach())).square()


def _third(depth: int) -> int:
    return max(1, depth // 3)


def _matrix(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    with torch.device("meta"):  # nothing is drawn from a global generator
        layer = nn.Linear(inputs, outputs, bias=False)
    return _drawn(layer, generator)


def _convolution(width: int, generator: torch.Generator) -> nn.Conv2d:
    with torch.device("meta"):
        layer = nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2)
    return _drawn(layer, generator)


def _drawn(layer: L, generator: torch.Generator) -> L:
    """Return the layer with its weight drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)) and no bias at first."""
    layer.to_empty(device="cpu")
    kaiming_uniform(layer.weight, generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
