"""Give users of Avalanche our metrics in their own loop: a plug-in that logs predictions and evaluates them.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405. Imported late, since it imports Avalanche; ask for ``clbench.evaluate.avalanche_plugin``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_loggers
from avalanche.training.supervised import JointTraining
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import UserError
from clbench.evaluate.catalogue import compute
from clbench.evaluate.digest import NEVER, digest, shares_of
from clbench.evaluate.results import SCORE_TYPES, Results
from clbench.outside.finite import NotFiniteError, described, is_finite

Columns = dict[str, NDArray[Any]]
SHARES: dict[str, Callable[[Tensor], Tensor | None]] = {  # of the outputs (B, C) of a model
    "logits": lambda outputs: outputs.softmax(dim=1),
    "probabilities": shares_of,
    "scores": lambda _: None,
}


class BridgeError(UserError, ValueError):
    """An Avalanche stream that cannot be evaluated, or has not been."""


class Evaluation(EvaluationPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Avalanche's evaluation plug-in with ours inside."""

    def __init__(self, *others: Any, loggers: Any = None, outputs: str = "logits") -> None:
        """Take further metrics of Avalanche; loggers are by default those that Avalanche has.

        ``outputs`` is what the model gives: "logits", "probabilities", or "scores" that are neither.
        """
        self._log = PredictionLog(outputs)
        super().__init__(self._log, *others, loggers=default_loggers if loggers is None else loggers)

    def results(self, stream: str = "test") -> Results:
        """Return what was predicted on a stream, up to the experiences learnt so far."""
        return self._log.results(stream)


class PredictionLog(PluginMetric):  # type: ignore[misc]  # Avalanche ships no types
    """Logs each evaluated image, and after an evaluation publishes every metric that is known.

    A task is an experience, in the order of training; of an online stream it is what the small experiences
    are parts of. Each evaluation stream has a log of its own. An evaluation takes the place of an earlier
    one after the same task, so that one in the midst of training counts until the next.
    """

    def __init__(self, outputs: str = "logits") -> None:
        """Begin with nothing learnt; ``outputs`` says how the model's outputs become shares, if at all."""
        super().__init__()
        if outputs not in SHARES:
            raise BridgeError(f"outputs={outputs!r}: allowed are {', '.join(SHARES)}")
        self.shares = SHARES[outputs]
        self.learnt: list[int] = []  # numbers of experiences
        self.classes: dict[int, set[int]] = {}  # of each experience learnt
        self.logs: dict[str, dict[tuple[int, int], Columns]] = defaultdict(dict)  # (after task, experience)
        self.pieces: list[Tensor] = []  # of the experience that is being evaluated
        self.published: set[str] = set()

    def before_training_exp(self, strategy: Any) -> None:
        """Note which experience is being learnt; joint training learns all at once."""
        is_joint = isinstance(strategy, JointTraining)
        for part in strategy._experiences if is_joint else [strategy.experience]:
            whole = _whole(part.logging())
            if whole.current_experience not in self.classes:
                self.learnt.append(whole.current_experience)
                self.classes[whole.current_experience] = _classes(whole)

    def before_eval_exp(self, strategy: Any) -> None:
        """Begin the log of an experience."""
        self.pieces = []

    def after_eval_iteration(self, strategy: Any) -> None:
        """Log a batch."""
        super().after_eval_iteration(strategy)
        experience = _whole(strategy.experience)
        own = _classes(experience) | self.classes.get(experience.current_experience, set())
        outputs, labels = strategy.mb_output.detach().double(), strategy.mb_y
        if not is_finite(outputs):
            raise NotFiniteError(
                f"{type(strategy).__name__}, experience {experience.current_experience}: the model's output"
                f" for a batch of {len(outputs)} images holds {described(outputs)}"
            )
        num_classes = max(outputs.shape[1], 1 + int(labels.max()), 1 + max(own))
        unknown = (0, num_classes - outputs.shape[1])  # classes that the head does not know
        scores, shares = F.pad(outputs, unknown, value=NEVER), self.shares(outputs)
        is_own = torch.zeros(num_classes, dtype=torch.bool, device=scores.device)
        is_own[sorted(own)] = True
        came_in = torch.full((num_classes,), len(self.learnt), device=scores.device)
        for task, number in reversed(list(enumerate(self.learnt))):
            known = [each for each in self.classes[number] if each < num_classes]
            came_in[known] = task
        rows = digest(
            scores,
            labels,
            shares_BC=None if shares is None else F.pad(shares, unknown),
            own_BC=is_own.expand_as(scores),
            came_in_C=came_in,
            newest=len(self.learnt) - 1,
        )
        self.pieces.append(torch.cat([labels[None].double(), rows]).cpu())

    def after_eval_exp(self, strategy: Any) -> None:
        """Keep the log of the experience in the place of an earlier one after the same task."""
        experience = _whole(strategy.experience)
        label, *rows = torch.cat(self.pieces, dim=1).numpy()
        columns = {
            name: row.astype(kind) for (name, kind), row in zip(SCORE_TYPES.items(), rows, strict=True)
        }
        columns |= {"label": label.astype(np.int32), "row": np.arange(len(label))}
        place = len(self.learnt) - 1, experience.current_experience
        self.logs[experience.origin_stream.name][place] = columns
        self.pieces = []

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Return the metrics of the stream; what has become unknown is NaN, what never was known left out."""
        if not self.learnt:
            return []
        stream = _whole(strategy.experience).origin_stream.name
        suffix = "" if stream == "test" else f"/{stream}_stream"
        values = {f"clbench/{name}{suffix}": value for name, value in compute(self.results(stream)).items()}
        self.published |= {name for name, value in values.items() if not math.isnan(value)}
        step = strategy.clock.train_iterations
        return [MetricValue(self, name, values[name], step) for name in values if name in self.published]

    def result(self) -> dict[str, float]:
        """Return the metrics on the test stream."""
        return compute(self.results("test"))

    def reset(self) -> None:
        """Keep everything: metrics are about the whole stream."""

    def results(self, stream: str) -> Results:
        """Return what was predicted on a stream, up to the experiences learnt so far.

        Evaluations of the untrained model count where all experiences share their classes, as forward
        transfer needs it; elsewhere it cannot know the classes it is asked for.
        """
        if stream not in self.logs or not self.learnt:
            known = ", ".join(self.logs) or "none"
            raise BridgeError(f"no experience of the stream {stream!r} was evaluated (evaluated: {known})")
        is_shared = all(classes == self.classes[self.learnt[0]] for classes in self.classes.values())
        parts = []
        for (after, number), columns in self.logs[stream].items():
            if number not in self.classes or (after < 0 and not is_shared):
                continue
            size = len(columns["label"])
            task = np.full(size, self.learnt.index(number), np.int16)
            parts.append({"after_task": np.full(size, after, np.int16), "task": task, **columns})
        log = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
        return Results.from_log(log, len(self.learnt))


def _whole(experience: Any) -> Any:
    """Return the experience that a part of an online stream was cut from, and any other as it is."""
    if not isinstance(experience, OnlineCLExperience):
        return experience
    if experience.origin_experience is None:
        raise BridgeError("the online stream has no boundaries: which experience a part is of is not known")
    return experience.origin_experience


def _classes(experience: Any) -> set[int]:
    return {int(number) for number in experience.dataset.targets.uniques}
