"""Let the parts of a strategy compute as in training, or as at test time."""

from __future__ import annotations

from clbench.strategies import Strategy


def training_mode(strategy: Strategy) -> None:
    """Let them compute as in training; those in which nothing is learnt, as at test time."""
    for part in strategy.parts().values():
        is_training = any(parameter.requires_grad for parameter in part.parameters())
        if part.training != is_training:  # at most steps nothing changes
            part.train(is_training)


def evaluation_mode(strategy: Strategy) -> None:
    """Let them compute as at test time."""
    for part in strategy.parts().values():
        part.eval()
