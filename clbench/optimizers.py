"""Make the optimiser that a strategy's recipe asks for."""

from __future__ import annotations

import math

import torch

from clbench.strategies import Strategy

FUSED = ("cpu", "cuda")  # devices whose fused kernels are one call a step


def make_optimizer(strategy: Strategy, device: torch.device) -> torch.optim.Optimizer:
    """Return a fresh optimiser of everything that the strategy lets learn."""
    groups = strategy.trainable()
    rate, decay, fused = strategy.learning_rate, strategy.weight_decay, device.type in FUSED
    if strategy.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, strategy.momentum, weight_decay=decay, fused=fused)
    if strategy.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, weight_decay=decay, fused=fused)
    return torch.optim.Adam(groups, rate, weight_decay=decay, fused=fused)


def carry_over(before: torch.optim.Optimizer | None, after: torch.optim.Optimizer) -> None:
    """Let an optimiser go on with what another knew of the same parameters: momenta, counts of steps."""
    if before is not None:
        learning = {parameter for group in after.param_groups for parameter in group["params"]}
        for parameter, state in before.state.items():
            if parameter in learning:
                after.state[parameter] = state


def set_rates(optimizer: torch.optim.Optimizer, strategy: Strategy, done: float) -> None:
    """Set the learning rates for the step that comes after the share ``done`` of the task's steps."""
    factor = (1 + math.cos(math.pi * done)) / 2 if strategy.schedule == "cosine" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
