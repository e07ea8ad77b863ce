"""Make a strategy again as it was when a task had ended, from what was written of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone
from clbench.data.continued import without_images
from clbench.data.history import History
from clbench.deploy.learnt import Learnt
from clbench.kinds import filled
from clbench.options import build
from clbench.outside.mistakes import explained
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import Checkpoint, restore
from clbench.runs.modes import evaluation_mode
from clbench.runs.returned import checked_parts, not_taken_back
from clbench.runs.sources import source_digest
from clbench.seeds import Seeds
from clbench.strategies import Strategy


def rebuilt(
    spec: RunSpec,
    history: History,
    backbone: Backbone,
    checkpoint: Checkpoint,
    *,
    origin: RunSpec,
    left_out: tuple[str, ...] = (),
    summary: Mapping[str, Tensor] = {},
    is_packed: bool = False,
    path: Path | None = None,
    weights: Path | None = None,
) -> Learnt:
    """Return what was learnt on a backbone, once a strategy has taken back what a checkpoint holds of it.

    Tensors that were ``left_out`` are what they are in a strategy that has begun its tasks and seen no image;
    ``summary`` is what it predicts by in their place.
    """
    strategy = build(strategies.get(spec.strategy.name), "strategy", spec.strategy.options)
    module = build(petl.get(spec.petl.name), "petl", spec.petl.options)
    with explained(strategy, module):
        strategy.setup(backbone, module, Seeds(spec.run.seed))
        for task in without_images(history):
            strategy.begin_task(task)
        checked_parts(strategy)
        known = _complete(checkpoint.tensors, strategy, left_out)
        checkpoint = replace(checkpoint, tensors=known)
        try:
            restore(replace(checkpoint, info={}), strategy, optimizer=None)
        except (KeyError, RuntimeError, ValueError) as error:
            raise not_taken_back(strategy, error) from error
    if summary:
        strategy.predict_by(summary)
    for part in strategy.parts().values():
        part.requires_grad_(False)
    evaluation_mode(strategy)
    source = source_digest(type(strategy))
    return Learnt(
        spec, origin, history, strategy, backbone, checkpoint, source, left_out, is_packed, path, weights
    )


def _complete(
    tensors: Mapping[str, Tensor], strategy: Strategy, left_out: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors with those that were left out, and with the room of a memory that is not full."""
    parts = strategy.parts().items()
    fresh = {f"{kind}/{name}": each for kind, part in parts for name, each in part.state_dict().items()}
    known = {**tensors, **{name: fresh[name] for name in left_out if name in fresh}}
    for name in (f"{kind}/{name}" for kind, part in parts for name in filled(part)):
        if name in known and len(known[name]) < len(fresh[name]):
            whole = fresh[name].clone()
            whole[: len(known[name])] = known[name]
            known[name] = whole
    return known
