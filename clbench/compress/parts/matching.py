"""Match tokens to those most like them, and merge the best matches into means by size.

D. Bolya et al., "Token Merging" (ToMe), ICLR 2023, arXiv 2210.09461, section 3: tokens at even places are A,
those at odd places B; each of A is matched to the most similar of B, and the r best matches are merged. What
stands in front of the patches (class, distillation and register tokens) is neither merged nor merged into.

Shape letters: B batch, N tokens, D width, E width of what is compared, G groups, S tokens of A, K places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """Which tokens become one, for each image of a batch.

    Groups stand in the order of the tokens that stay: the prefix, what is left of A, all of B.
    """

    group_BN: Tensor  # the group of each token, among those of all images: image b's begin at b G
    num_groups: int  # G

    def merged(self, tokens_BND: Tensor, share_BN1: Tensor) -> Tensor:
        """Return the means of the groups, (B, G, D); ``share_BN1`` is each token's weight in its group."""
        return self.added(tokens_BND * share_BN1).to(tokens_BND.dtype)

    def added(self, tokens_BND: Tensor) -> Tensor:
        """Return the sums of the groups, (B, G, D); those of sizes are the groups' sizes."""
        batch, _, width = tokens_BND.shape
        sums = tokens_BND.new_zeros(batch * self.num_groups, width)
        sums.index_add_(0, self.group_BN.flatten(), tokens_BND.flatten(0, 1))
        return sums.view(batch, self.num_groups, width)

    def unmerged(self, groups_BGD: Tensor) -> Tensor:
        """Copy each group's value back to all tokens that it was made of: (B, N, D)."""
        tokens = groups_BGD.flatten(0, 1).index_select(0, self.group_BN.flatten())
        return tokens.view(*self.group_BN.shape, groups_BGD.shape[-1])


def match(metric_BNE: Tensor, removed: int, num_prefix: int) -> Matching | None:
    """Match as many tokens as are to be removed, half of the patches at most; None where that is none."""
    batch, num_tokens, _ = metric_BNE.shape
    removed = min(removed, num_removable(num_tokens, num_prefix))
    if removed <= 0:
        return None
    even, odd = num_prefix + num_prefix % 2, num_prefix + 1 - num_prefix % 2  # the first place of A, of B
    num_groups = num_tokens - removed
    # Autocast would compare in half precision, where many similarities are equal.
    with torch.no_grad(), torch.autocast(metric_BNE.device.type, enabled=False):
        metric = metric_BNE.to(torch.promote_types(metric_BNE.dtype, torch.float32))
        metric = metric / metric.norm(dim=-1, keepdim=True)
        score_BS, best_BS = torch.bmm(metric[:, even::2], metric[:, odd::2].mT).max(dim=-1)
        stays_BS = torch.ones_like(score_BS, dtype=torch.bool)
        stays_BS.scatter_(1, score_BS.topk(removed, sorted=False).indices, value=False)
        place = torch.arange(num_groups, device=metric.device)
        group_BN = best_BS.new_empty(batch, num_tokens)
        first_target = num_groups - len(range(odd, num_tokens, 2))
        rank_BS = stays_BS.cumsum(dim=-1) + (num_prefix - 1)  # of those of A that stay, in their order
        group_BN[:, :num_prefix] = place[:num_prefix]
        group_BN[:, even::2] = torch.where(stays_BS, rank_BS, best_BS + first_target)
        group_BN[:, odd::2] = place[first_target:]
        first = torch.arange(0, batch * num_groups, num_groups, device=metric.device)
        return Matching(group_BN.add_(first[:, None]), num_groups)


def num_removable(num_tokens: int, num_prefix: int) -> int:
    """Return how many tokens one step can remove at most: half of the patches."""
    return (num_tokens - num_prefix) // 2


def gathered(tokens_BND: Tensor, places_BK: Tensor) -> Tensor:
    """Return the tokens (B, K, D) at places; row by row, which is quickest on a CPU."""
    batch, num_tokens, width = tokens_BND.shape
    first = torch.arange(0, batch * num_tokens, num_tokens, device=places_BK.device)
    rows = tokens_BND.flatten(0, 1).index_select(0, (places_BK + first[:, None]).flatten())
    return rows.view(batch, places_BK.shape[1], width)
