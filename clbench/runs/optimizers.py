"""Make the optimiser that a strategy's recipe asks for."""

from __future__ import annotations

import math
from typing import Any

import torch

from clbench.strategies import Strategy

STEP = 0.1  # of the learning rate, from the milestone on
FUSED = ("cpu", "cuda")  # devices whose fused kernels are one call a step


def make_optimizer(strategy: Strategy, device: torch.device) -> torch.optim.Optimizer:
    """Return a fresh optimiser of everything that the strategy lets learn."""
    groups = [_with_rate(strategy.learning_rate, **group) for group in strategy.trainable()]
    rate, decay, fused = strategy.learning_rate, strategy.weight_decay, device.type in FUSED
    optimizer: torch.optim.Optimizer
    if strategy.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, rate, strategy.momentum, weight_decay=decay, fused=fused)
        _start_momenta(optimizer)
    elif strategy.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, rate, weight_decay=decay, fused=fused)
    else:
        optimizer = torch.optim.Adam(groups, rate, weight_decay=decay, fused=fused)
    optimizer.register_step_post_hook(_tell_of_changes)
    return optimizer


def _tell_of_changes(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Give what has learnt new versions: torch's fused steps do not, and caches of features go by them."""
    learning = (parameter for group in optimizer.param_groups for parameter in group["params"])
    torch.autograd.graph.increment_version([each for each in learning if each.grad is not None])


def _with_rate(rate: float, rate_ratio: float = 1.0, **group: Any) -> dict[str, Any]:
    """Return a parameter group with its learning rate."""
    return {**group, "lr": group.get("lr", rate) * rate_ratio}


def _start_momenta(optimizer: torch.optim.SGD) -> None:
    """Set every momentum to 0: torch's fused step fails where some parameters have had no gradient yet."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def carry_over(before: torch.optim.Optimizer | None, after: torch.optim.Optimizer) -> None:
    """Let an optimiser go on with what another knew of the same parameters: momenta, counts of steps."""
    if before is not None:
        learning = {parameter for group in after.param_groups for parameter in group["params"]}
        for parameter, state in before.state.items():
            if parameter in learning:
                after.state[parameter] = state


def rate_factor(strategy: Strategy, done: float, epoch: int, num_epochs: int) -> float:
    """Return the share of its learning rate that a step of a task gets by the strategy's schedule.

    Args:
        strategy: Whose schedule it is.
        done: The share of the task's steps that is behind, in [0, 1).
        epoch: The epoch (0-based) of the task that the step is in.
        num_epochs: How many the task has.
    """
    if strategy.schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if strategy.schedule == "quarter-cosine":  # the published one: 99 % of the way to 0 in the last epoch
        return math.cos(0.99 * math.pi / 2 * epoch / max(1, num_epochs - 1))
    if strategy.schedule == "step":
        return STEP if epoch >= round(strategy.milestone * num_epochs, 6) else 1.0
    return 1.0


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each learning rate to this share of what it was at first."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
