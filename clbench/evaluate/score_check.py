"""Look whether the scores of an evaluation say anything: finite, distributions where declared, not all alike.

What is counted stays on the device until it is asked for, once an evaluation. B images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROOM = 0.01  # by which a row of probabilities may miss 1: the rounding of bf16 over a thousand classes


class ScoreCheck:
    """Counts rows of scores (B, C) that are not finite, no distribution, like the first, or level."""

    def __init__(self, *, are_probabilities: bool) -> None:
        """Start without rows; ``are_probabilities`` is what the strategy declares of them."""
        self.are_probabilities = are_probabilities
        self.num_rows = 0
        self.num_classes = 0
        self._first: Tensor | None = None
        self._counts: Tensor | None = None

    def add(self, scores_BC: Tensor) -> None:
        """Count rows."""
        if self._first is None:
            self._first, self.num_classes = scores_BC[0].clone(), scores_BC.shape[1]
        is_broken = ~scores_BC.isfinite().all(dim=1)
        is_no_share = (scores_BC < 0).any(dim=1) | ((scores_BC.sum(dim=1) - 1).abs() > ROOM)
        is_as_first = (scores_BC == self._first).all(dim=1)
        is_level = (scores_BC == scores_BC[:, :1]).all(dim=1)
        counts = torch.stack([each.sum() for each in (is_broken, is_no_share, is_as_first, is_level)])
        self._counts = counts if self._counts is None else self._counts + counts
        self.num_rows += len(scores_BC)

    def fault(self, *, is_to_tell: bool) -> str:
        """Return in words what is wrong with the rows, how many of how many; empty if nothing is.

        ``is_to_tell`` says that the images are of several classes and that the learner has learnt them: its
        rows may neither be all the same, nor give all classes the same score.
        """
        if self._counts is None:
            return ""
        num_broken, num_no_share, num_as_first, num_level = self._counts.tolist()
        rows = f"of {self.num_rows} rows of scores"
        if num_broken:
            return f"{num_broken} {rows} are not finite"
        if self.are_probabilities and num_no_share:
            return f"gives_probabilities is true, and {num_no_share} {rows} are below 0 or do not sum to 1"
        if not is_to_tell or self.num_rows < 2 or self.num_classes < 2:
            return ""
        if num_as_first == self.num_rows:
            return f"{num_as_first} {rows} are the same: no image is told from another"
        if num_level == self.num_rows:
            return f"{num_level} {rows} give every class the same: no class is told from another"
        return ""
