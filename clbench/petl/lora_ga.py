"""Start ``peft.lora-ga`` from the gradient of a loss, which is not known where a module is attached.

S. Wang, L. Yu, J. Li, "LoRA-GA: Low-Rank Adaptation with Gradient Approximation", NeurIPS 2024, arXiv
2407.05000, as in the authors' code: with the singular vectors G = U S V^T of the gradient (O, I) of a weight,

    A = c V^T[:r],  B = c U[:, r:2r],  c = O^(1/4) / sqrt(gamma),

so that the first step changes the weight along -G as far as rank 2r can. peft's own version multiplies B by
singular values and scales B alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from clbench.petl.attached import Attached
from clbench.petl.parts.peft_branch import PeftBranch, Place
from clbench.petl.parts.peft_layers import ADAPTER, START, PeftError
from clbench.seeds import forked

Batch = TypeVar("Batch")


def start_from_gradient(
    attached: Attached,
    loss: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    *,
    rank: int,
    gamma: float,
    generator: torch.Generator,
) -> None:
    """Give the factors their start from the gradient of the loss, averaged over the batches; keep the output.

    The authors take 8 to 64 batches.
    """
    branches = [cast("PeftBranch", branch) for branch in attached.branches]
    gradients = _mean_gradients(attached, [branch.place for branch in branches], loss, batches)
    with forked(int(torch.randint(2**63 - 1, (), generator=generator))), torch.no_grad():
        for branch, gradient in zip(branches, gradients, strict=True):
            _start_from(gradient, branch, rank, gamma)


def _mean_gradients(
    attached: Attached, places: list[Place], loss: Callable[[Batch], Tensor], batches: Iterable[Batch]
) -> list[Tensor]:
    """Return the mean gradient (O, I) of the loss at each place, with the module switched off."""
    weights = [place.layer.weight for place in places]
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    were_enabled, were_trained = attached.enabled, [weight.requires_grad for weight in weights]
    attached.enabled = False
    num_batches = 0
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for batch in batches:
            num_batches += 1
            for total, gradient in zip(sums, torch.autograd.grad(loss(batch), weights), strict=True):
                total += gradient
    finally:
        for weight, was_trained in zip(weights, were_trained, strict=True):
            weight.requires_grad_(was_trained)
        attached.enabled = were_enabled
    for place, total in zip(places, sums, strict=True):
        if not total.any():
            raise PeftError(
                f"the loss has no gradient at {place.site.name} in {num_batches} batches; a classifier of"
                " zeros lets none pass"
            )
    return [total[place.rows] / num_batches for place, total in zip(places, sums, strict=True)]


def _start_from(gradient: Tensor, branch: PeftBranch, rank: int, gamma: float) -> None:
    """Set the factors, and those that are subtracted from them."""
    layer = cast("Any", branch.layer)
    most = min(gradient.shape)
    if 2 * rank > most:
        raise PeftError(f"rank: {rank} takes {2 * rank} singular vectors of the gradient, which has {most}")
    left, _, right = torch.svd_lowrank(gradient, q=min(4 * rank, most), niter=4)
    length = len(gradient) ** 0.25 / gamma**0.5
    for adapter in (ADAPTER, START):
        layer.lora_A[adapter].weight.copy_(length * right[:, :rank].T)
        layer.lora_B[adapter].weight.copy_(length * left[:, rank : 2 * rank])
