"""Match tokens to those most like them, and merge the best matches into means by size.

D. Bolya et al., "Token Merging" (ToMe), ICLR 2023, arXiv 2210.09461, section 3: tokens at even places are A,
those at odd places B; each of A is matched to the most similar of B, and the r best matches are merged. What
stands in front of the patches (class, distillation and register tokens) is neither merged nor merged into.

Shape letters: B batch, N tokens, D width, E width of what is compared, R merged, K kept, T in B, P in front.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """Which tokens become one, for each image of a batch."""

    kept_BK: Tensor  # places of tokens of A that stay, ascending
    source_BR: Tensor  # places of tokens of A that are merged
    target_BR: Tensor  # into which of B: 0 is the first behind the prefix
    num_tokens: int  # N
    num_prefix: int  # P

    def merged(self, tokens_BND: Tensor, sizes_BN1: Tensor | None) -> Tensor:
        """Return the size-weighted mean of each group, (B, N - R, D); without sizes all tokens are equal."""
        sizes = torch.ones_like(tokens_BND[..., :1]) if sizes_BN1 is None else sizes_BN1.to(tokens_BND.dtype)
        target = self._targets(tokens_BND)
        sums = self._added(target * self._targets(sizes), gathered(tokens_BND * sizes, self.source_BR))
        return self._joined(tokens_BND, sums / self._grown(sizes))

    def grown(self, sizes_BN1: Tensor) -> Tensor:
        """Return the sizes of the groups, (B, N - R, 1)."""
        return self._joined(sizes_BN1, self._grown(sizes_BN1))

    def unmerged(self, groups_BMD: Tensor) -> Tensor:
        """Copy each group's value back to all tokens that it was made of: (B, N, D)."""
        num_prefix, num_kept = self.num_prefix, self.kept_BK.shape[1]
        batch, _, width = groups_BMD.shape
        kept = groups_BMD[:, num_prefix : num_prefix + num_kept]
        target = groups_BMD[:, num_prefix + num_kept :]
        tokens = groups_BMD.new_zeros(batch, self.num_tokens, width)
        tokens[:, :num_prefix] = groups_BMD[:, :num_prefix]
        tokens[:, first_odd(num_prefix) :: 2] = target
        tokens.scatter_(1, _wide(self.kept_BK, width), kept)
        return tokens.scatter_(1, _wide(self.source_BR, width), gathered(target, self.target_BR))

    def _targets(self, tokens: Tensor) -> Tensor:
        return tokens[:, first_odd(self.num_prefix) :: 2]

    def _grown(self, sizes: Tensor) -> Tensor:
        return self._added(self._targets(sizes), gathered(sizes, self.source_BR))

    def _added(self, target_BTD: Tensor, source_BRD: Tensor) -> Tensor:
        """Add each merged token to the one that it goes into; row by row, which is quickest on a CPU."""
        batch, num_targets, width = target_BTD.shape
        first = torch.arange(batch, device=target_BTD.device)[:, None] * num_targets
        rows = (self.target_BR + first).flatten()
        return (
            target_BTD.flatten(0, 1)
            .index_add(0, rows, source_BRD.flatten(0, 1))
            .view(batch, num_targets, width)
        )

    def _joined(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Return the prefix, what stays of A, and all of B."""
        return torch.cat((tokens[:, : self.num_prefix], gathered(tokens, self.kept_BK), target), dim=1)


def match(metric_BNE: Tensor, removed: int, num_prefix: int) -> Matching | None:
    """Match as many tokens as are to be removed, half of the patches at most; None where that is none."""
    num_tokens = metric_BNE.shape[1]
    removed = min(removed, num_removable(num_tokens, num_prefix))
    if removed <= 0:
        return None
    with torch.no_grad():
        metric = metric_BNE.detach().float()
        metric = metric / metric.norm(dim=-1, keepdim=True)
        start = first_even(num_prefix)
        a, b = metric[:, start::2], metric[:, first_odd(num_prefix) :: 2]
        score, best = (a @ b.transpose(1, 2)).max(dim=-1)
        order = score.argsort(dim=-1, descending=True, stable=True)
        merged, kept = order[:, :removed], order[:, removed:].sort(dim=-1).values
    return Matching(
        kept_BK=start + 2 * kept,
        source_BR=start + 2 * merged,
        target_BR=best.gather(1, merged),
        num_tokens=num_tokens,
        num_prefix=num_prefix,
    )


def num_removable(num_tokens: int, num_prefix: int) -> int:
    """Return how many tokens one step can remove at most: half of the patches."""
    return (num_tokens - num_prefix) // 2


def gathered(tokens: Tensor, places: Tensor) -> Tensor:
    """Return the tokens (B, K, D) at places (B, K)."""
    return tokens.gather(1, _wide(places, tokens.shape[-1]))


def first_even(num_prefix: int) -> int:
    """Return the first even place behind the prefix."""
    return num_prefix + num_prefix % 2


def first_odd(num_prefix: int) -> int:
    """Return the first odd place behind the prefix."""
    return num_prefix + 1 - num_prefix % 2


def _wide(places: Tensor, width: int) -> Tensor:
    return places[..., None].expand(-1, -1, width)
