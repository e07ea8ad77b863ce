"""Measure how far a student is from its teacher, by the logits (B, C) of both: B images, C classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student), summed over the images."""
    targets = teacher.log_softmax(dim=1)
    return F.kl_div(student.log_softmax(dim=1), targets, reduction="sum", log_target=True)


def compared(teacher: Tensor, student: Tensor) -> dict[str, float]:
    """Return the mean divergence, and the share of images in which the same class is first."""
    is_same = teacher.argmax(dim=1) == student.argmax(dim=1)
    mean = float(divergence(teacher, student)) / len(teacher)
    return {"divergence": round(mean, 4), "agreement": round(float(is_same.float().mean()), 4)}
