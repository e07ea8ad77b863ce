"""Make of a learner the form in which it would be deployed: a copy, compressed, merged, then quantised."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.errors import UserError
from clbench.outside.mistakes import explained
from clbench.petl import registry
from clbench.petl.attached import Attached
from clbench.petl.folding import fold, switched_for
from clbench.quant import Quantiser
from clbench.quant.quantised import Quantised, restored
from clbench.runs.compressing import all_tokens
from clbench.strategies import Strategy


class VariantError(UserError, ValueError):
    """A form that a learner cannot have."""


Predict = Callable[[Strategy], object]  # asks a strategy about an image or two
Anew = Callable[
    [Backbone], Strategy
]  # makes the strategy again that has begun its tasks, on another backbone


Compress = Callable[[Backbone], object]


@dataclass
class Deployed:
    """A copy of a learner in another form, which learns no more."""

    backbone: Backbone
    strategy: Strategy
    folded: list[int]  # places among the backbone's attached modules of those that were merged
    form: Quantised | None = None  # of few bits
    seconds: float = 0.0  # that it took to calibrate the form


@torch.no_grad()
def copied(
    backbone: Backbone,
    strategy: Strategy,
    own: str,
    predict: Predict,
    anew: Anew | None = None,
    compress: Compress | None = None,
) -> Deployed:
    """Return a copy, as one of the strategy's ``own`` variants if one is named, with modules merged.

    ``compress`` gives its backbone another form, before anything is merged: what a plug-in does to the
    weights lies below the modules, as it does where they have learnt on it. A strategy that holds what cannot
    be copied, as some of Avalanche's do, is made ``anew``, and takes back what it has learnt.
    """
    backbone, strategy = _twin(backbone, strategy, anew)
    for part in (backbone, *strategy.parts().values()):
        part.requires_grad_(False)
    if own:
        with explained(strategy):
            strategy.become(own)
    if compress:
        compress(backbone)
    for module in switched_for(backbone, lambda: predict(strategy)):
        name = registry.name_of(type(module.petl))
        raise VariantError(
            f"the strategy predicts with several states of the backbone's own weights (module {name}), and a"
            " variant holds one of them: choose a module that learns beside the weights"
        )
    merged = fold(backbone, lambda: predict(strategy))
    places = [place for place, module in enumerate(backbone.attached) if module in merged]
    return Deployed(backbone, strategy, places)


def _twin(backbone: Backbone, strategy: Strategy, anew: Anew | None) -> tuple[Backbone, Strategy]:
    try:
        # The backbone comes first: what is copied after it refers to the copy.
        return copy.deepcopy((backbone, strategy))
    except (TypeError, RuntimeError):  # a generator, or a tensor inside a graph
        if anew is None:
            raise
    state = {kind: part.state_dict() for kind, part in strategy.parts().items()}
    twin = copy.deepcopy(backbone)
    for module in list(twin.attached):
        cast("Attached", module).detach()
    made = anew(twin)
    made.take_back(state)
    return twin, made


def quantise(made: Deployed, quantiser: Quantiser, images: Tensor, generator: torch.Generator) -> None:
    """Let it compute with few bits from now on."""
    start = time.perf_counter()
    with explained(quantiser), torch.no_grad(), all_tokens(made.backbone):
        made.form = quantiser.quantise(made.backbone, images, generator)
    made.form.settle()
    made.seconds = time.perf_counter() - start


def quantise_like(made: Deployed, other: Quantised, seconds: float) -> None:
    """Let it compute with the bits of another form of the same learner, which took so long to calibrate."""
    made.form = restored(made.backbone, other.quantiser, other.described(), other.state())
    made.form.settle()
    made.seconds = seconds


def felt(backbone: Backbone) -> str:
    """Return a text that only backbones share that compute the same with the same modules at their sites."""
    modules = (cast("Attached", module) for module in backbone.attached)
    return " ".join([backbone.weights_digest, *(each.state_key() for each in modules if each.is_felt)])
