"""Reduce the scores of a batch of images to what a prediction log keeps of each.

Scores may be any finite numbers: which of two is higher is all that a prediction depends on. Shares are there
only where the scores are probabilities. B images, C classes. Tasks count from 0 in the order in which they
are learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor

NAN = float("nan")
NEVER = -torch.inf  # score of a class that must not be chosen


def digest(
    scores_BC: Tensor,
    labels_B: Tensor,
    *,
    own_BC: Tensor,
    came_in_C: Tensor,
    newest: int,
    shares_BC: Tensor | None = None,
) -> Tensor:
    """Return the columns of ``SCORE_TYPES`` in their order: (8, B) double, which holds class numbers exactly.

    ``own_BC`` tells which classes belong to the image's task, ``came_in_C`` the first task of each class,
    and ``newest`` the last task learnt; classes that came later than that are neither old nor new. A class
    whose score is minus infinity is not to be chosen.
    ``masked_prediction`` is the best class of the own task, ``beaten_in`` the first task with a class that is
    preferred to the true one (-1: none). The others are NaN without shares: ``confidence`` and
    ``label_score`` are the shares of the predicted and of the true class, ``sum_squares`` the sum of all
    squared shares, ``old_score`` and ``new_score`` the best share among the classes of earlier tasks and of
    the newest (NaN without such).
    """
    best = scores_BC.argmax(dim=1)
    masked = scores_BC.masked_fill(~own_BC, NEVER).argmax(dim=1)
    beaten = _beaten_in(scores_BC, labels_B, came_in_C)
    unknown = scores_BC.new_full((len(scores_BC),), NAN)
    of_shares = [unknown] * 5
    if shares_BC is not None:
        chosen_B2 = torch.stack([best, labels_B], dim=1)
        sides = (_best(shares_BC, came_in_C < newest), _best(shares_BC, came_in_C == newest))
        of_shares = [*shares_BC.gather(1, chosen_B2).unbind(dim=1), shares_BC.square().sum(dim=1), *sides]
    return torch.stack([row.double() for row in (best, masked, *of_shares, beaten)])


def shares_of(probabilities_BC: Tensor, allowed_BC: Tensor | None = None) -> Tensor:
    """Return probabilities so that each row sums to 1 again, among the classes that are allowed.

    If every class that is allowed has none, they share alike.
    """
    if allowed_BC is None:
        return probabilities_BC / probabilities_BC.sum(dim=1, keepdim=True)
    kept_BC = probabilities_BC.masked_fill(~allowed_BC, 0.0)
    alike_BC = allowed_BC.to(kept_BC.dtype).expand_as(kept_BC)
    kept_BC = torch.where(kept_BC.sum(dim=1, keepdim=True) > 0, kept_BC, alike_BC)
    return kept_BC / kept_BC.sum(dim=1, keepdim=True)


def _best(shares_BC: Tensor, members_C: Tensor) -> Tensor:
    """Return the best share among some classes, NaN if there are none."""
    if not members_C.any():
        return shares_BC.new_full((len(shares_BC),), NAN)
    return shares_BC[:, members_C].amax(dim=1)


def _beaten_in(scores_BC: Tensor, labels_B: Tensor, came_in_C: Tensor) -> Tensor:
    number = torch.arange(scores_BC.shape[1], device=scores_BC.device)
    own = scores_BC.gather(1, labels_B[:, None])
    is_earlier = number < labels_B[:, None]  # the first of equals is chosen
    beats = (scores_BC > own) | ((scores_BC == own) & is_earlier)
    never = int(came_in_C.max()) + 1
    first = came_in_C.where(beats, never).amin(dim=1)
    return first.where(first < never, -1)
