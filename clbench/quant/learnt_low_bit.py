"""Train a linear layer through its quantised weight, and store it in a few bits a weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from clbench.quant.bits import pack, unpack
from clbench.quant.packed import Packs
from clbench.quant.parts.gauss_codebook import borders, codebook, decode, encode, quantise

FULL = 32  # bits of a weight that is not quantised


class LearntLowBitLinear(Packs):
    """A linear layer without bias that computes with one of 2^bits values a weight.

    The float32 weight behind them learns. Packed, the layer is n bits / 8 bytes for n weights and 8 for their
    mean and deviation. Unpacked, it computes with what was stored as it is: quantised once more, the weight
    would shrink by the deviation of the codes.
    """

    codes: Tensor
    borders: Tensor

    def __init__(self, in_features: int, out_features: int, bits: int) -> None:
        """Make a layer of 1, 2, 4 or 8 bits without values."""
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.register_buffer("codes", torch.tensor(codebook(bits)), persistent=False)
        self.register_buffer("borders", torch.tensor(borders(bits)), persistent=False)
        self.stored: dict[str, Tensor] = {}  # what the layer was unpacked from, if it was

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply by the quantised weight."""
        weight = self.weight if self.stored else quantise(self.weight, self.codes, self.borders)
        return F.linear(inputs, weight)

    def packed(self) -> dict[str, Tensor]:
        """Return the packed indices, and mean and deviation."""
        if self.stored:
            return self.stored
        indices, statistics = encode(self.weight, self.borders)
        return {"codes": pack(indices, self.bits), "statistics": statistics}

    def unpack(self, stored: Mapping[str, Tensor]) -> None:
        """Take the stored weight, for good: it does not learn any more."""
        packed, statistics = (stored[key].to(self.weight.device) for key in ("codes", "statistics"))
        indices = unpack(packed, self.bits, self.weight.numel())
        with torch.no_grad():
            self.weight.copy_(decode(indices, statistics, self.codes).view_as(self.weight))
        self.weight.requires_grad_(False)
        self.stored = {"codes": packed, "statistics": statistics}


def bias_free(in_features: int, out_features: int, bits: int) -> LearntLowBitLinear | nn.Linear:
    """Return a linear layer of 1, 2, 4, 8 or 32 bits a weight, without bias and without values."""
    if bits < FULL:
        return LearntLowBitLinear(in_features, out_features, bits)
    layer: nn.Linear = skip_init(nn.Linear, in_features, out_features, bias=False)  # type: ignore[no-untyped-call]  # torch's
    return layer
