"""Search the base, and the scale, of an operand that is rounded on a logarithmic grid.

AdaLog, Z. Wu et al., ECCV 2024, arXiv 2407.12951: probabilities, whose scale is 1, are searched for q alone;
what leaves a GELU is shifted by the GELU's least value first and searched for pairs of q and a scale.

Shape letters: ... batches (groups, images, heads), R rows and I columns of an operand, C candidates,
L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.adaptive_log import AdaptiveLog, R, logs, looked_up, places, value_tables
from clbench.quant.parts.fpcs import best, crossed, spread
from clbench.quant.parts.output_error import OutputError
from clbench.quant.parts.own_error import OwnError
from clbench.quant.parts.searched import Effort, Searched

FIRST_Q, NUM_TRIED = 10, 128  # q that are tried
NUM_KEPT = 8  # q for all scales
AROUND = 4  # scales around each pair that is kept


class AdaptiveLogOperand(Searched):
    """An operand of values above -shift, all of which share q and a scale.

    Where the scale is searched, it is among those from the 0.9-quantile of the positive values to the largest
    one, the shift added, and starts at the second largest; otherwise it is 1. q starts at r.
    """

    def __init__(
        self, values: Tensor, bits: int, effort: Effort, *, shift: float = 0.0, has_scale: bool = False
    ) -> None:
        """Take the operand in float."""
        super().__init__(values, bits, effort)
        self.shift, self.has_scale = shift, has_scale
        self.q, self.scale = values.new_tensor(float(R)), values.new_ones(())
        if has_scale:
            positive = values[values > 0]
            own = OwnError(positive if len(positive) else values.abs().flatten())
            self.least, self.largest = (own.quantile(share) + shift for share in (0.9, 1.0))
            self.scale = spread(self.least, self.largest, effort.candidates)[-2]

    @property
    def rounded(self) -> Tensor:
        """The operand rounded, the shift taken off again."""
        one = [1] * (self.values.ndim + 1)
        seen = logs(self.values + self.shift)[..., None, :, :]
        return self._round(seen, self.scale.view(one), self.q.view(one)).squeeze(-3)

    def search(self, other: Tensor, other_rounded: Tensor) -> None:
        """Choose q, and the scale with it."""
        output = OutputError(self.values, other, other_rounded)
        seen = logs(self.values + self.shift)

        def error(scale: Tensor, q: Tensor) -> Tensor:
            scales, qs = (each.view(-1, *[1] * (self.values.ndim - 1)) for each in (scale, q))
            return output.of(seen, self._round, scales, qs, self.effort.num_values).view(-1)

        qs = _first_q(self.bits) + torch.arange(NUM_TRIED, dtype=torch.float32, device=self.q.device)
        errors = error(self.scale.expand_as(qs), qs)
        if not self.has_scale:
            self.q = qs[errors.argmin()]
            return
        kept = qs[errors.topk(NUM_KEPT, largest=False).indices]
        scales = spread(self.least, self.largest, self.effort.candidates // NUM_KEPT)
        pairs = crossed(scales, kept)
        self.scale, self.q = best(pairs, error, steps=self.effort.steps, around=AROUND)

    def rounding(self) -> AdaptiveLog:
        """Return what was found, for values with the shift added."""
        return AdaptiveLog(self.bits, scale=self.scale, q=self.q)

    def _round(self, logs: Tensor, scale: Tensor, q: Tensor) -> Tensor:
        """Round (..., 1, R, I) with scales and q (..., C, 1, 1), of which each C has one table."""
        num_levels = 2**self.bits
        tables = scale.reshape(-1, 1) * value_tables(q.flatten(), self.bits) - self.shift  # (C, L + 1)
        first = torch.arange(len(tables), device=q.device).view(q.shape) * (num_levels + 1)
        codes = places(torch.log2(scale), logs, q, num_levels)
        return looked_up(tables.flatten(), codes.add_(first).to(torch.int32))


def _first_q(bits: int) -> int:
    """Return the least q that is tried: half of it for each bit beyond five, for twice as many levels."""
    return max(1, FIRST_Q >> max(0, bits - 5))
