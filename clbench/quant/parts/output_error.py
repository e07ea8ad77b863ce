"""Tell the squared error that candidates for one operand of a product make in its output.

Of a product a f^T, and of the rounded operands a^ and f^, the difference is

    a f^T - a^ f^^T = e f^^T - t,    e = a - a^,  t = a (f^ - f)^T,

in which nothing large cancels. Its square is summed directly, or by the Gram matrix of f^,

    |e f^^T - t|^2 = e G e^T - 2 e m^T + |t|^2,    G = f^^T f^,  m = t f^,

which costs R I I operations a candidate instead of R K I: the less of the two is done. A layer's weight with
its inputs, inputs with a weight, queries with keys and probabilities with the values' transpose are such
products, batches of them where there are groups, images or heads.

Shape letters: ... batches, R rows and I columns of the operand, K rows of the other one, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FLOAT = 4  # bytes
COPIES = 4  # of a chunk of candidates that are held at once

# Rounds what is seen of the operand (..., 1, R, I) with scales and their partners (..., C, R or 1, 1).
Rounder = Callable[[Tensor, Tensor, Tensor], Tensor]


class OutputError:
    """What each way to round an operand does to a product."""

    def __init__(
        self, operand: Tensor, other: Tensor, other_rounded: Tensor, *, by_gram: bool | None = None
    ) -> None:
        """Take an operand (..., R, I), and the other one (..., K, I) as it is and rounded.

        ``by_gram``: None chooses by the number of operations.
        """
        self.operand, self.factor = operand, other_rounded
        self.target = operand @ (other_rounded - other).mT  # t (..., R, K)
        rows, width = other_rounded.shape[-2:]
        self.by_gram = width < rows if by_gram is None else by_gram
        if self.by_gram:
            self.gram = other_rounded.mT @ other_rounded
            self.pull = 2 * self.target @ other_rounded
            self.rest = self.target.square().sum(dim=-1)

    def of(self, seen: Tensor, rounder: Rounder, scale: Tensor, partner: Tensor, num_values: int) -> Tensor:
        """Return the errors (C, ...) of scales and partners (C, ...), summed over all that shares one.

        ``seen`` (..., R, I) is what the rounder gets of the operand. Scales are (C, ...) with the axes of the
        operand but the last one, of size 1 where they are shared. About ``num_values`` numbers are looked at
        at once.
        """
        num_rows = self.operand.shape[-2]
        of_a_row = self.operand.numel() // num_rows
        row_step = max(1, min(num_rows, num_values // of_a_row))
        step = max(1, num_values // (row_step * of_a_row))
        errors = torch.zeros(scale.shape, dtype=torch.float64, device=scale.device)
        for start in range(0, num_rows, row_step):
            rows = slice(start, start + row_step)
            own = rows if scale.shape[-1] > 1 else slice(None)  # scales of these rows
            for first in range(0, len(scale), step):
                some = (slice(first, first + step), ..., own)
                pair = [tensor[some].movedim(0, -2)[..., None] for tensor in (scale, partner)]
                rounded = rounder(seen[..., None, rows, :], pair[0], pair[1])
                of_rows = self._of_rows(rounded, rows).movedim(-2, 0).double()
                errors[some] += of_rows.sum_to_size(errors[some].shape)
        return errors

    def _of_rows(self, rounded: Tensor, rows: slice) -> Tensor:
        """Return the errors (..., C, R) of candidates (..., C, R, I) for some of the rows."""
        error = self.operand[..., None, rows, :] - rounded
        flat = error.flatten(-3, -2)
        if not self.by_gram:
            product = (flat @ self.factor.mT).view(*error.shape[:-1], -1)
            return product.sub_(self.target[..., None, rows, :]).square_().sum(dim=-1)
        product = (flat @ self.gram).view(error.shape)
        crossed = product.sub_(self.pull[..., None, rows, :]).mul_(error).sum(dim=-1)
        return crossed + self.rest[..., None, rows]


def values_in(megabytes: float) -> int:
    """Return how many numbers are looked at at once in so much memory."""
    return max(1, int(megabytes * 2**20) // (FLOAT * COPIES))
