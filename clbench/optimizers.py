"""Make the optimiser that a strategy's recipe asks for."""

from __future__ import annotations

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
