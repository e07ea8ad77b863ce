"""Ask a strategy for its predictions on the tasks seen so far.

One pass makes one log, from which every metric is derived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbench.data.batches import Batcher, in_order
from clbench.data.samples import join
from clbench.streams import Task

Columns = dict[str, NDArray[np.generic]]


@torch.inference_mode()
def predict_all(
    predict: Callable[[Tensor], Tensor],
    seen: Sequence[Task],
    batcher: Batcher,
    batch_size: int,
    heard: Callable[[int], None],
) -> Columns:
    """Return the prediction log of the seen tasks' test images, one row an image.

    ``masked_prediction`` is the best among the classes of the image's own task; ``confidence`` and
    ``label_score`` are the shares of the predicted and of the true class in the row's scores. ``heard`` is
    told of each batch's size.
    """
    samples = join([task.test for task in seen])
    task_of_row = np.repeat([task.index for task in seen], [len(task.test) for task in seen])
    membership = _membership(seen).to(batcher.device)
    pieces: list[Tensor] = []
    for part in in_order(len(samples), batch_size):
        scores = predict(batcher.test_batch(samples.rows[part])).float()
        expected = (part.stop - part.start, membership.shape[1])
        if scores.shape != expected:
            raise ValueError(f"predict returned scores of shape {tuple(scores.shape)}; expected {expected}")
        own_task = membership[torch.from_numpy(task_of_row[part]).to(batcher.device)]
        labels = batcher.labels(samples, np.arange(part.start, part.stop))
        pieces.append(_digest(scores, labels, own_task))
        heard(part.stop - part.start)
    prediction, masked, confidence, label_score = torch.cat(pieces, dim=1).cpu().double().numpy()
    return {
        "task": task_of_row.astype(np.int16),
        "row": samples.rows,
        "label": samples.labels.astype(np.int32),
        "prediction": prediction.astype(np.int32),
        "masked_prediction": masked.astype(np.int32),
        "confidence": confidence.astype(np.float32),
        "label_score": label_score.astype(np.float32),
    }


def _digest(scores: Tensor, labels: Tensor, own_task: Tensor) -> Tensor:
    """Return what is logged of a batch: (4, B) in double precision, which holds class numbers exactly."""
    share = scores / scores.sum(dim=1, keepdim=True)
    top = share.max(dim=1)
    masked = scores.masked_fill(~own_task, -1.0).argmax(dim=1)
    of_label = share.gather(1, labels[:, None])[:, 0]
    return torch.stack((top.indices.double(), masked.double(), top.values.double(), of_label.double()))


def _membership(seen: Sequence[Task]) -> Tensor:
    """Return (task, class) -> whether the class occurs in the task, for all tasks and classes seen."""
    num_classes = 1 + max(max(task.classes) for task in seen)
    membership = torch.zeros(1 + max(task.index for task in seen), num_classes, dtype=torch.bool)
    for task in seen:
        membership[task.index, task.classes] = True
    return membership
