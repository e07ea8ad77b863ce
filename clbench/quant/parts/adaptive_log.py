"""Round values in [0, s] to powers of a base of one's own, held as small integers and shifts.

AdaLog, Z. Wu et al., ECCV 2024, arXiv 2407.12951. With r = 37 and an integer q, the base is 2^(q / r):

    c = round(-log2(t) r / q),  t = clamp(x / s, 1e-15, 1);    x^ = s num[c] / D 2^-shift[c],
    shift[c] = floor(c q / r),  num[c] = round(2^-((c q mod r) / r) D),  D = 2^(b + 1) - 2.

num[c] lies in L - 1..2 L - 2. What falls behind the last of the L = 2^b levels is exactly 0, as in the
published code: so there are L + 1 values, and zero has a code of its own, L.

A product with integers B needs no other arithmetic than theirs: sum(num[c] B >> shift[c]), times s / D.

Shape letters: N rows, K columns, M columns of the other operand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clbench.quant.parts.rounding import Rounding

R = 37
FLOOR = -math.log2(1e-15)  # how many octaves below s a value is held apart
BITS_OF_INT64 = 63


class AdaptiveLog(Rounding):
    """Levels s 2^(-c q / r), c in 0..L - 1, and 0, with a scale s > 0 and an integer q, both ()."""

    scale: Tensor
    q: Tensor

    def __init__(self, bits: int, *, scale: Tensor, q: Tensor) -> None:
        """Hold scale and q."""
        super().__init__(bits, scale=scale, q=q)

    @property
    def num_codes(self) -> int:
        """Number of codes, L + 1."""
        return self.num_levels + 1

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes, int64 in 0..L; L stands for 0."""
        return self._places(values).to(torch.int64)

    def decoded(self, codes: Tensor) -> Tensor:
        """Return what codes stand for, in float32."""
        return looked_up(self._table(), codes)

    def rounded(self, values: Tensor) -> Tensor:
        """Return the same without int64 in between."""
        return looked_up(self._table(), self._places(values).to(torch.int32)).to(values.dtype)

    def reaches(self, values: Tensor) -> Tensor:
        """Tell which values lie between 0 and s."""
        return (values >= 0) & (values <= self.scale)

    def int_table(self) -> tuple[Tensor, Tensor]:
        """Return shift and num, (L,) each, int64."""
        return int_tables(self.q, self.bits)

    def integer_product(self, codes: Tensor, operand: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply codes (..., N, K) by integers (..., K, M), zero points subtracted, in int64.

        Returns the product, exact, and the factor that makes values of it but for the operand's own scale.
        Codes are shifted up to the deepest one that there is, not down; OverflowError where that is too far.
        """
        shift, num = (torch.cat((table, table.new_zeros(1))) for table in self.int_table())
        deepest = int(shift[codes].max())
        largest = int(operand.abs().max()).bit_length() + int(codes.shape[-1]).bit_length()
        if self.bits + 1 + deepest + largest > BITS_OF_INT64:
            raise OverflowError(f"sums of numbers shifted by {deepest} bits do not fit into 64 bits")
        lifted = num[codes] << (deepest - shift[codes])
        return lifted @ operand.to(torch.int64), self.scale / denominator(self.bits) / 2.0**deepest

    def _places(self, values: Tensor) -> Tensor:
        """Return the codes, as floats."""
        return places(torch.log2(self.scale), logs(values), self.q, self.num_levels)

    def _table(self) -> Tensor:
        return self.scale * value_tables(self.q, self.bits)


def logs(values: Tensor) -> Tensor:
    """Return log2 of values; of those below 0, that of next to nothing."""
    return torch.log2(values.clamp(min=torch.finfo(torch.float32).tiny))


def places(log_scale: Tensor, logs: Tensor, q: Tensor, num_levels: int) -> Tensor:
    """Return codes as floats, num_levels for 0, of values by their logarithms; shapes broadcast."""
    steps = (log_scale - logs).clamp_(0, FLOOR).mul_(R / q)
    return steps.round_().clamp_(max=num_levels)


def denominator(bits: int) -> int:
    """Return D."""
    return int(2 ** (bits + 1) - 2)


def int_tables(q: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return shift and num of each q (...), int64 (..., L)."""
    exponents = torch.arange(2**bits, device=q.device) * q.to(torch.int64)[..., None]
    num = torch.round(torch.exp2(-(exponents % R).double() / R) * denominator(bits))
    return exponents // R, num.to(torch.int64)


def value_tables(q: Tensor, bits: int) -> Tensor:
    """Return the values of all codes, zero's too, at scale 1, of each q (...): float32 (..., L + 1)."""
    shift, num = int_tables(q, bits)
    values = num / denominator(bits) * torch.exp2(-shift.double())
    return torch.cat((values, torch.zeros_like(values[..., :1])), dim=-1).float()


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """Return table[codes]: index_select is several times as quick as an index."""
    return table.index_select(0, codes.reshape(-1)).view(codes.shape)
