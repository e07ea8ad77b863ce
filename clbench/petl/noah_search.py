"""Search the best architecture of a trained NOAH super-net under a limit of parameters, by evolution.

Y. Zhang, K. Zhou, Z. Liu, "Neural Prompt Search" (NOAH), 2022, arXiv 2206.04673:

    module = clbench.petl.attach(model, "noah")
    ...                                                   # train the super-net
    best = search(module, accuracy, max_parameters=400_000, generator=torch.Generator().manual_seed(0))
    module.detach()
    module = clbench.petl.attach(backbone, "noah", architecture=best)

with ``accuracy`` a function of the module that returns the score on validation data.

Differs from the published code:
- A mutation draws sizes and depths anew; there it changes depths alone.
- The first population holds the largest architecture with one size a module, so that the result is never
  worse than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from clbench.errors import UserError
from clbench.petl.attached import Attached
from clbench.petl.noah import NOAH, Choice
from clbench.petl.parts.noah_space import SIZES, Space, Subnet, drawn_sizes, pick

DRAWS = 10  # for each architecture wanted, before fewer are taken


class NoSuperNetError(UserError, TypeError):
    """A module that has no architectures to choose among."""


def search(
    attached: Attached,
    score: Callable[[Attached], float],
    max_parameters: int,
    generator: torch.Generator,
    *,
    generations: int = 15,
    population: int = 50,
    top: int = 10,
    crossover: int = 25,
    mutation: int = 25,
    p_mutation: float = 0.2,
    p_depth: float = 0.4,
) -> str:
    """Return the best-scoring architecture of at most ``max_parameters`` parameters; 0 is no limit.

    Each generation breeds ``mutation`` and ``crossover`` new architectures from the ``top`` best so far and
    fills up to ``population`` with random ones. A mutation draws every size anew with probability
    ``p_mutation`` and every depth with ``p_depth``. None is scored twice, and none above the limit.
    """
    space = choice_of(attached).space
    candidates = [space.largest(max_parameters)]
    best = list(candidates)
    scores: dict[Subnet, float] = {}

    def fill(number: int, draw: Callable[[], Subnet]) -> None:
        """Draw candidates until there are ``number``, or too many draws were in vain."""
        for _ in range(DRAWS * number):
            if len(candidates) < number:
                subnet = draw()
                if subnet not in scores and subnet not in candidates and space.fits(subnet, max_parameters):
                    candidates.append(subnet)

    def mutant() -> Subnet:
        return mutated(pick(best, generator), space, p_mutation, p_depth, generator)

    def child() -> Subnet:
        return crossed(pick(best, generator), pick(best, generator), generator)

    for _ in range(generations):
        fill(population, lambda: space.sample(generator))
        scores |= scored(attached, candidates, score)
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:top]
        candidates = []
        fill(mutation, mutant)
        fill(mutation + crossover, child)
    return str(best[0])


def scored(
    attached: Attached, candidates: list[Subnet], score: Callable[[Attached], float]
) -> dict[Subnet, float]:
    """Return the score of every candidate; the module computes as before afterwards."""
    choice = choice_of(attached)
    before, was_training = choice.chosen, attached.training
    scores = {}
    attached.eval()
    try:
        for subnet in candidates:
            choice.chosen = subnet
            scores[subnet] = score(attached)
    finally:
        choice.chosen = before
        attached.train(was_training)
    return scores


def choice_of(attached: Attached) -> Choice:
    """Return what chooses the architecture of a super-net; NoSuperNetError if the module is none."""
    if not isinstance(attached.petl, NOAH) or attached.petl.architecture:
        raise NoSuperNetError(f"{attached.petl} is no super-net; attach noah without petl.architecture")
    return cast("Choice", attached.shared[0])


def mutated(
    subnet: Subnet, space: Space, p_size: float, p_depth: float, generator: torch.Generator
) -> Subnet:
    """Return an architecture with some sizes and depths drawn anew."""
    lists = []
    for sizes in subnet.lists:
        depth = pick(space.depths, generator) if happens(p_depth, generator) else len(sizes)
        kept = [pick(SIZES, generator) if happens(p_size, generator) else size for size in sizes[:depth]]
        lists.append((*kept, *drawn_sizes(depth - len(kept), generator)))
    return Subnet(*lists)


def crossed(mother: Subnet, father: Subnet, generator: torch.Generator) -> Subnet:
    """Return an architecture with each module's sizes from one of two others."""
    return Subnet(*(pick(pair, generator) for pair in zip(mother.lists, father.lists, strict=True)))


def happens(probability: float, generator: torch.Generator) -> bool:
    """Draw whether something of this probability happens."""
    return bool(torch.rand((), generator=generator) < probability)
