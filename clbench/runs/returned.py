"""Look at what a strategy's hooks return, and say in one line what is wrong with it and why that may be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clbench.data.inputs import Batch
from clbench.data.samples import Samples
from clbench.outside.mistakes import NOT_GROWN, PluginError
from clbench.strategies import Strategy

LOST = "; the run was resumed: what is in none of parts(), such as a Python list or number, was lost then"


def checked_parts(strategy: Strategy) -> None:
    """Expect a dictionary of modules by name."""
    parts = strategy.parts()
    what = f"{type(strategy).__name__}.parts()"
    if not isinstance(parts, Mapping):
        raise PluginError(
            f'{what} returned {_kind(parts)}; return a dictionary such as {{"head": self.head}}'
        )
    for name, part in parts.items():
        if not isinstance(name, str) or not isinstance(part, nn.Module):
            raise PluginError(
                f"{what} holds {_kind(part)} under {name!r}; return modules by name, and put a tensor into"
                " one (register_buffer, nn.ParameterDict)"
            )


def checked_samples(strategy: Strategy, samples: Samples | None) -> Samples | None:
    """Expect what there is to train on, or None."""
    if samples is not None and not isinstance(samples, Samples):
        raise PluginError(
            f"{type(strategy).__name__}.training_samples() returned {_kind(samples)}; return Samples, such as"
            " seen[-1].train, or None to learn nothing yet"
        )
    return samples


def checked_batch(strategy: Strategy, batch: Batch) -> Batch:
    """Expect the batch to learn from."""
    if not isinstance(batch, Batch):
        raise PluginError(
            f"{type(strategy).__name__}.before_step() returned {_kind(batch)}; return the batch to learn from"
        )
    return batch


def checked_loss(strategy: Strategy, loss: Tensor) -> Tensor:
    """Expect a scalar that leads back to what is trained."""
    what = f"{type(strategy).__name__}.loss()"
    if not isinstance(loss, Tensor):
        cause = (
            "; a return is missing" if loss is None else ", which is cut off from what is trained (.item()?)"
        )
        raise PluginError(f"{what} returned {_kind(loss)}{cause}")
    if loss.dim():
        raise PluginError(
            f"{what} returned a tensor of shape {tuple(loss.shape)}, no scalar; take its mean()"
        )
    if not loss.requires_grad:
        raise PluginError(
            f"{what} is detached: no gradient leads from it to anything that is trained; look for detach(),"
            " no_grad(), argmax(), and for modules that are frozen or in none of parts()"
        )
    return loss


def checked_scores(strategy: Strategy, scores: Tensor, num_images: int) -> Tensor:
    """Expect a row of floating-point scores an image."""
    what = f"{type(strategy).__name__}.predict()"
    if not isinstance(scores, Tensor):
        cause = "; a return is missing" if scores is None else ""
        raise PluginError(f"{what} returned {_kind(scores)}, no tensor of scores{cause}")
    if scores.dim() != 2 or len(scores) != num_images or not scores.is_floating_point():
        kind = str(scores.dtype).removeprefix("torch.")
        raise PluginError(
            f"{what} returned {kind} of shape {tuple(scores.shape)}; return a float for each of {num_images}"
            " images (rows) and of the classes seen (columns)"
        )
    return scores


def refuse_other_width(strategy: Strategy, scores: Tensor, num_classes: int) -> None:
    """Expect a score for each class seen so far."""
    if scores.shape[1] != num_classes:
        raise PluginError(
            f"{type(strategy).__name__}.predict() returned scores of {scores.shape[1]} classes where"
            f" {num_classes} have been seen; {NOT_GROWN}"
        )


def refuse_nothing_to_train(strategy: Strategy, optimizer: torch.optim.Optimizer) -> None:
    """Expect the optimiser to have been given something."""
    if not any(group["params"] for group in optimizer.param_groups):
        raise PluginError(
            f"{type(strategy).__name__} is to be trained, but nothing in parts() requires a gradient; hold"
            " what is trained in parts() and grow it in begin_task, or let num_epochs() return 0"
        )


def not_taken_back(strategy: Strategy, error: Exception) -> PluginError:
    """Return the line about a state that the strategy does not take back when a run goes on."""
    reason = " ".join(str(error).split())
    return PluginError(
        f"{type(strategy).__name__} does not take back what was saved of it: {reason}; the tensors in parts()"
        " may depend on setup() and begin_task() alone, which have been called again"
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
