"""Match tokens to those most like them, and merge the best matches into means by size.

D. Bolya et al., "Token Merging" (ToMe), ICLR 2023, arXiv 2210.09461, section 3: tokens at even places are A,
those at odd places B; each of A is matched to the most similar of B, and the r best matches are merged. What
stands in front of the patches (class, distillation and register tokens) is neither merged nor merged into.

Shape letters: B batch, N tokens, D width, E width of what is compared, R merged, G groups (N - R), K places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Matching:
    """Which tokens become one, for each image of a batch: a token that stays, and those merged into it."""

    kept_BG: Tensor  # places of tokens that stay, one a group: the prefix, the rest of A, all of B
    source_BR: Tensor  # places of tokens that are merged, the best match first
    target_BR: Tensor  # the groups that they are merged into

    def merged(self, tokens_BND: Tensor, sizes_BN1: Tensor) -> Tensor:
        """Return the size-weighted mean of each group, (B, G, D); it is computed as exactly as sizes are."""
        grown = self.grown(sizes_BN1)
        kept_share = (
            gathered(sizes_BN1, self.kept_BG) / grown
        )  # exactly 1 where nothing is merged into a token
        source_share = gathered(sizes_BN1, self.source_BR) / gathered(grown, self.target_BR)
        kept = gathered(tokens_BND, self.kept_BG).to(grown.dtype).mul_(kept_share)  # in place: less memory
        source = gathered(tokens_BND, self.source_BR).to(grown.dtype).mul_(source_share)
        return self._added(kept, source).to(tokens_BND.dtype)

    def grown(self, sizes_BN1: Tensor) -> Tensor:
        """Return the sizes of the groups, (B, G, 1)."""
        return self._added(gathered(sizes_BN1, self.kept_BG), gathered(sizes_BN1, self.source_BR))

    def unmerged(self, groups_BGD: Tensor) -> Tensor:
        """Copy each group's value back to all tokens that it was made of: (B, N, D)."""
        own = torch.arange(self.kept_BG.shape[1], device=self.kept_BG.device).expand_as(self.kept_BG)
        places = torch.cat((self.kept_BG, self.source_BR), dim=1)
        groups = torch.cat((own, self.target_BR), dim=1)
        return gathered(groups_BGD, torch.empty_like(places).scatter_(1, places, groups))

    def _added(self, kept_BGD: Tensor, source_BRD: Tensor) -> Tensor:
        """Add each merged token to the one that it goes into, in place."""
        groups = kept_BGD.flatten(0, 1)
        groups.index_add_(0, _rows(self.target_BR, kept_BGD.shape[1]), source_BRD.flatten(0, 1))
        return groups.view_as(kept_BGD)


def match(metric_BNE: Tensor, removed: int, num_prefix: int) -> Matching | None:
    """Match as many tokens as are to be removed, half of the patches at most; None where that is none."""
    batch, num_tokens, _ = metric_BNE.shape
    removed = min(removed, num_removable(num_tokens, num_prefix))
    if removed <= 0:
        return None
    even, odd = num_prefix + num_prefix % 2, num_prefix + 1 - num_prefix % 2  # the first place of A, of B
    device = metric_BNE.device
    # Autocast would compare in half precision, where many similarities are equal.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        metric = F.normalize(metric_BNE.to(torch.promote_types(metric_BNE.dtype, torch.float32)), dim=-1)
        score, best = (metric[:, even::2] @ metric[:, odd::2].transpose(1, 2)).max(dim=-1)
        order = score.argsort(dim=-1, descending=True, stable=True)
        source, rest = order[:, :removed], order[:, removed:].sort(dim=-1).values
        in_front = torch.arange(num_prefix, device=device).expand(batch, -1)
        targets = torch.arange(odd, num_tokens, 2, device=device).expand(batch, -1)
        kept = torch.cat((in_front, even + 2 * rest, targets), dim=1)
        first_target = kept.shape[1] - targets.shape[1]
        return Matching(kept, even + 2 * source, first_target + best.gather(1, source))


def num_removable(num_tokens: int, num_prefix: int) -> int:
    """Return how many tokens one step can remove at most: half of the patches."""
    return (num_tokens - num_prefix) // 2


def gathered(tokens_BND: Tensor, places_BK: Tensor) -> Tensor:
    """Return the tokens (B, K, D) at places; row by row, which is quickest on a CPU."""
    batch, num_tokens, width = tokens_BND.shape
    rows = tokens_BND.flatten(0, 1).index_select(0, _rows(places_BK, num_tokens))
    return rows.view(batch, places_BK.shape[1], width)


def _rows(places_BK: Tensor, num_tokens: int) -> Tensor:
    """Return the places among the tokens of all images, (B K,)."""
    first = torch.arange(places_BK.shape[0], device=places_BK.device)[:, None] * num_tokens
    return (places_BK + first).flatten()
