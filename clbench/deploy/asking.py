"""Ask what was learnt about pictures: the scores that an evaluation of the run would compute."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.data.batches import Batcher
from clbench.data.history import History
from clbench.data.inputs import Inputs
from clbench.deploy.learnt import Learnt
from clbench.errors import UserError
from clbench.evaluate.digest import NEVER, shares_of
from clbench.runs.modes import evaluation_mode
from clbench.runs.returned import checked_scores


class TaskError(UserError, ValueError):
    """A task that has to be told and was not, or the other way round."""


def check_task(learnt: Learnt, task: int | None) -> None:
    """Expect the index of a task where, and only where, tasks were told in training."""
    is_told = learnt.history.scenario == "task"
    if is_told and task is None:
        raise TaskError(
            "this learner was taught task by task, and has to be told the task of a picture:"
            f" task=0 to {learnt.num_tasks - 1}"
        )
    if task is not None and not is_told:
        raise TaskError("this learner chooses among all classes: it takes no task")
    if task is not None and not 0 <= task < learnt.num_tasks:
        raise TaskError(f"task {task}: it has learnt tasks 0 to {learnt.num_tasks - 1}")


@torch.inference_mode()
def scores_of(learnt: Learnt, pixels: NDArray[np.uint8], task: int | None = None) -> Tensor:
    """Return the scores (n, C), float32 on the CPU, of images (n, H, W, 3) as a stream stores them.

    Where a task is told, classes of others have minus infinity, or no probability.
    """
    evaluation_mode(learnt.strategy)
    batcher = Batcher(pixels, learnt.backbone.preprocessing, "none", learnt.device)
    inputs = Inputs(batcher=batcher, rows=np.arange(len(pixels)), task=task)
    is_half = learnt.spec.run.precision == "bf16"
    with torch.autocast(learnt.device.type, torch.bfloat16, enabled=is_half):
        scores = checked_scores(learnt.strategy, learnt.strategy.predict(inputs), len(inputs)).float()
    among = None if task is None else allowed(learnt.history, task).to(scores.device)
    return restricted(scores, among, are_probabilities=learnt.strategy.gives_probabilities).cpu()


def allowed(history: History, task: int) -> Tensor:
    """Return which classes (C,) a task has."""
    is_own = torch.zeros(len(history.class_names), dtype=torch.bool)
    is_own[history.tasks[task]] = True
    return is_own


def restricted(scores: Tensor, among: Tensor | None, *, are_probabilities: bool) -> Tensor:
    """Return scores (B, C) among some classes (C,) only, if not among all."""
    if among is None:
        return scores
    return shares_of(scores, among) if are_probabilities else scores.masked_fill(~among, NEVER)
