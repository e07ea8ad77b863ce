"""Hold what a learner says of some pictures: a score for each class, and the names of the highest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from clbench.errors import UserError


class NoProbabilitiesError(UserError, TypeError):
    """Probabilities that are asked of a learner whose scores are none."""


@dataclass(frozen=True, eq=False)
class Predictions(Sequence["Predictions"]):
    """The scores of N pictures among C classes; indexing gives those of one, or of some."""

    scores: Tensor  # (N, C) float32 on the CPU; -inf where a class could not be chosen
    class_names: Sequence[str]  # C
    are_probabilities: bool  # whether each row of scores is >= 0 and sums to 1

    def __len__(self) -> int:
        """Return the number of pictures, N."""
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Predictions: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Predictions:
        """Return what is said of one picture or of some, as predictions again."""
        places = range(len(self))[index]
        rows = [places] if isinstance(places, int) else list(places)
        return Predictions(self.scores[rows], self.class_names, self.are_probabilities)

    def __iter__(self) -> Iterator[Predictions]:
        """Yield what is said of each picture."""
        return (self[index] for index in range(len(self)))

    @property
    def classes(self) -> Tensor:
        """The number of the highest class of each picture, (N,) int64."""
        return self.scores.argmax(dim=1)

    @property
    def names(self) -> list[str]:
        """The name of the highest class of each picture."""
        return [self.class_names[number] for number in self.classes.tolist()]

    @property
    def probabilities(self) -> Tensor:
        """The scores, (N, C), of a learner that gives probabilities; NoProbabilitiesError of any other."""
        if not self.are_probabilities:
            raise NoProbabilitiesError(
                "this learner's scores are no probabilities: a higher one is more likely, and no more is"
                " known; use scores or top()"
            )
        return self.scores

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Return the names and scores of the highest classes of each picture, the highest first."""
        values, numbers = self.scores.topk(min(count, self.scores.shape[1]), dim=1)
        return [
            [
                (self.class_names[number], value)
                for number, value in zip(row_numbers, row_values, strict=True)
                if value != -torch.inf
            ]
            for row_numbers, row_values in zip(numbers.tolist(), values.tolist(), strict=True)
        ]
