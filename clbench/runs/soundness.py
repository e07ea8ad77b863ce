"""Stop a run whose numbers are no longer numbers, in one line that says where that began."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch
from clbench.errors import UserError
from clbench.outside.finite import NotFiniteError, described, is_finite, refuse_not_finite
from clbench.registry import UnknownNameError
from clbench.strategies import Strategy, registry


class DivergedError(UserError, ArithmeticError):
    """The loss was a number and is none any more."""

    options_are_at_fault = True


class ScoresError(UserError, ValueError):
    """Scores that no prediction can be read from."""

    options_are_at_fault = True


def name_of(strategy: Strategy) -> str:
    """Return the name or address that the strategy was asked for by, or that of its class."""
    try:
        return registry.name_of(type(strategy))
    except UnknownNameError:
        return type(strategy).__name__


def refuse_scores(strategy: Strategy, fault: str, when: str) -> None:
    """Raise ScoresError if there is a fault, see ``ScoreCheck.fault``; name a tensor that may cause it."""
    if fault:
        cause = next(_not_finite(strategy), "")
        raise ScoresError(f"strategy {name_of(strategy)}, {when}: {fault}{cause and f' ({cause})'}")


def refuse_parts(strategy: Strategy, when: str) -> None:
    """Raise NotFiniteError if the strategy holds a tensor that is not finite."""
    for found in _not_finite(strategy):
        raise NotFiniteError(f"strategy {name_of(strategy)}, {when}: {found}")


def refuse_first_loss(strategy: Strategy, batch: Batch, loss: Tensor) -> None:
    """Raise NotFiniteError if the first loss of a task is no number: nothing that it learns can be to blame.

    The line names the first of what the loss comes from that is not finite: a tensor of the strategy, the
    images, the features.
    """
    if is_finite(loss):
        return
    where = f"strategy {name_of(strategy)}, task {batch.task + 1}: the first loss is {float(loss.detach())}"
    for found in _not_finite(strategy):
        raise NotFiniteError(f"{where}, because {found}")
    images = Looked(**{each.name: getattr(batch, each.name) for each in fields(batch)})
    try:
        with torch.no_grad():
            strategy.loss(images)
    except NotFiniteError as error:
        raise NotFiniteError(f"{where}, because {error}") from error
    raise NotFiniteError(f"{where}, although its weights, the images and their features are finite")


def refuse_divergence(strategy: Strategy, losses: Sequence[float], when: str) -> None:
    """Raise DivergedError if a loss is no number; ``losses`` are those of an epoch, step by step.

    The first loss of the task was one, see ``refuse_first_loss``, so that what was learnt since is to blame.
    """
    for step, (before, loss) in enumerate(pairwise([math.nan, *losses]), start=1):
        if not math.isfinite(loss):
            fell = "" if math.isnan(before) else f" from {before:.4g}"
            raise DivergedError(
                f"strategy {name_of(strategy)}, {when}, step {step}: the loss went{fell} to {loss};"
                f" lower strategy.learning_rate ({strategy.learning_rate})"
            )


def refuse_lost_weights(strategy: Strategy, when: str) -> None:
    """Raise DivergedError if what was trained is not finite, which a finite loss does not tell."""
    for found in _not_finite(strategy):
        rate = strategy.learning_rate
        raise DivergedError(
            f"strategy {name_of(strategy)}, {when}: {found}, which the last step made of finite numbers;"
            f" lower strategy.learning_rate ({rate})"
        )


class Looked(Batch):
    """A batch that refuses images and features that are not finite."""

    def features(self, backbone: Backbone) -> Tensor:
        """Return the features, having looked at them and at the images that they are of."""
        refuse_not_finite(self.images, "images", f"rows {_some(self.rows)} of the stream")
        features = super().features(backbone)
        of_rows = features.detach().reshape(len(features), -1).isfinite().all(dim=1).cpu().numpy()
        place = f"the features of rows {_some(self.rows[~of_rows])} of the stream"
        refuse_not_finite(features, place, f"backbone {backbone.name} ({backbone.weights_source} weights)")
        return features


def _not_finite(strategy: Strategy) -> Iterator[str]:
    """Yield a line about each tensor that the strategy holds and that is not finite."""
    for kind, part in strategy.parts().items():
        for name, tensor in part.state_dict().items():
            if not is_finite(tensor):
                yield f"{name} of its part {kind!r} holds {described(tensor)}"


def _some(rows: NDArray[np.int64]) -> str:
    """Write the first few row numbers."""
    return ", ".join(map(str, rows[:3].tolist())) + (", ..." if len(rows) > 3 else "")
