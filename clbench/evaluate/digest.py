"""Reduce the scores of a batch of images to what a prediction log keeps of each.

B images, C classes. Tasks count from 0 in the order in which they are learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor


def digest(shares_BC: Tensor, labels_B: Tensor, *, own_BC: Tensor, came_in_C: Tensor, newest: int) -> Tensor:
    """Return the columns of ``SCORE_TYPES`` in their order: (8, B) double, which holds class numbers exactly.

    ``own_BC`` tells which classes belong to the image's task, ``came_in_C`` the first task of each class,
    and ``newest`` the last task learnt; classes that came later than that are neither old nor new.
    ``masked_prediction`` is the best class of the own task; ``confidence`` and ``label_score`` are the shares
    of the predicted and of the true class, ``sum_squares`` the sum of all squared shares, ``old_score`` and
    ``new_score`` the best share among the classes of earlier tasks and of the newest (NaN without such),
    ``beaten_in`` the first task with a class that is preferred to the true one (-1: none).
    """
    top = shares_BC.max(dim=1)
    masked = shares_BC.masked_fill(~own_BC, -1.0).argmax(dim=1)
    of_label = shares_BC.gather(1, labels_B[:, None])
    squares = shares_BC.square().sum(dim=1)
    best = (_best(shares_BC, came_in_C < newest), _best(shares_BC, came_in_C == newest))
    beaten = _beaten_in(shares_BC, labels_B, of_label, came_in_C)
    rows = (top.indices, masked, top.values, of_label[:, 0], squares, *best, beaten)
    return torch.stack([row.double() for row in rows])


def _best(shares_BC: Tensor, members_C: Tensor) -> Tensor:
    """Return the best share among some classes, NaN if there are none."""
    if not members_C.any():
        return shares_BC.new_full((len(shares_BC),), float("nan"))
    return shares_BC[:, members_C].amax(dim=1)


def _beaten_in(shares_BC: Tensor, labels_B: Tensor, own: Tensor, came_in_C: Tensor) -> Tensor:
    number = torch.arange(shares_BC.shape[1], device=shares_BC.device)
    is_earlier = number < labels_B[:, None]  # the first of equals is chosen
    beats = (shares_BC > own) | ((shares_BC == own) & is_earlier)
    never = int(came_in_C.max()) + 1
    first = came_in_C.where(beats, never).amin(dim=1)
    return first.where(first < never, -1)
