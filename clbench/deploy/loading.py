"""Open a learner: from the folder of a run, finished or stopped after some task, or from a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from clbench.backbones.backbone import Backbone
from clbench.data.history import History
from clbench.data.tasks import Places
from clbench.deploy.bundle import TENSORS, Bundle, BundleError, is_bundle, read_bundle
from clbench.deploy.bundled_backbone import take_form, with_fewer_tokens
from clbench.deploy.learner import Learner
from clbench.deploy.learnt import Learnt
from clbench.deploy.rebuilding import rebuilt
from clbench.errors import UserError
from clbench.records.record import Record
from clbench.records.spec import USED, Part, RunSpec, Variant
from clbench.registry import is_address
from clbench.runs.backbone import in_its_forms, opened_backbone
from clbench.runs.checkpoint import Checkpoint, Position, load_checkpoint
from clbench.runs.resuming import edited_start
from clbench.runs.sources import is_same_source
from clbench.seeds import Seeds
from clbench.strategies import get


class LearnerError(UserError, ValueError):
    """A folder that no learner can be made from."""


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    places: Places | None = None,
    strategy: str | None = None,
    petl: str | None = None,
    backbone: str | None = None,
    quant: str | None = None,
    compress: str | None = None,
    weights: str | Path | None = None,
) -> Learner:
    """Return what a run has learnt, to be asked, shipped, or taught more.

    Args:
        path: The folder of a run (of one that was stopped, what it had learnt when its last task ended), or a
            bundle.
        device: Where it shall compute: cpu, cuda, mps, or auto.
        places: Where published weights and an older record's data may lie.
        strategy: Of a bundle whose strategy is in somebody's file: that file again, as in ``mine.py:Mine``.
        petl: The same of its module.
        backbone: The same of its backbone.
        quant: The same of its quantiser.
        compress: The same of its token compressor.
        weights: A file of the backbone's weights, where they are not where the run found them.
    """
    from clbench.devices import choose

    folder, places, where = Path(path), places or Places(), torch.device(choose(device))
    if not folder.is_dir():
        raise LearnerError(f"no learner in {folder}: there is no such folder")
    named = {"strategy": strategy, "petl": petl, "backbone": backbone, "quant": quant, "compress": compress}
    if is_bundle(folder):
        learnt = _of_bundle(folder, read_bundle(folder), where, places, named, weights)
    else:
        learnt = _of_run(folder, where, places, named, weights)
    return Learner(**vars(learnt))


def _of_run(
    folder: Path,
    device: torch.device,
    places: Places,
    named: Mapping[str, str | None],
    weights: str | Path | None,
) -> Learnt:
    record = Record.open(folder)
    _refuse_changed(record)
    checkpoint = load_checkpoint(folder / "checkpoint", is_between_tasks=True)
    if checkpoint is None or checkpoint.position == Position():
        raise LearnerError(f"no learner in {folder}: it holds no checkpoint of a task that has ended")
    history = record.history() or _from_its_data(record, places)
    spec = _named_again(record.spec, named)
    hashes = record.read_json("hashes.json")
    _refuse_other_source(folder, spec, hashes["strategy_source"])
    opened = _backbone(spec, device, places, weights, hashes["weights"], folder)
    in_its_forms(spec, opened, folder)
    learnt = history.first(checkpoint.position.task)
    given = None if weights is None else Path(weights)
    return rebuilt(spec, learnt, opened, checkpoint, origin=record.spec, path=folder, weights=given)


def _of_bundle(
    folder: Path,
    bundle: Bundle,
    device: torch.device,
    places: Places,
    named: Mapping[str, str | None],
    weights: str | Path | None,
) -> Learnt:
    variant = Variant.from_dict(bundle.about.variant) if bundle.about.variant else None
    for kind, name in _names_in(bundle.spec, variant).items():
        if is_address(name) and named[kind] is None:
            raise BundleError(
                f"the {kind} of {folder} is {name}, in a file that a bundle does not carry; if you trust"
                f" yours, name it again: --{kind} FILE.py:NAME (in Python {kind}=...)"
            )
    spec = _named_again(bundle.spec, named)
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"metrics": ""})})  # it may name code
    _refuse_other_source(folder, spec, bundle.about.strategy_source)
    about = bundle.about.backbone
    if about.is_included:
        opened = bundle.backbone_of(spec, device, f"{folder} ({about.source})")
    else:
        opened = _backbone(spec, device, places, weights, about.digest, folder)
    again = _formed_again(variant, named)
    with_fewer_tokens(opened, spec, again, bundle.plugin, is_folded=about.is_repaired)
    checkpoint = Checkpoint(Position(len(bundle.history.tasks)), bundle.state, {})
    learnt = rebuilt(
        spec,
        _without_code(bundle.history),
        opened,
        checkpoint,
        origin=bundle.spec,
        left_out=tuple(bundle.about.left_out),
        summary=bundle.summary,
        is_packed=bundle.about.is_packed,
        path=folder,
        weights=folder / TENSORS if about.is_included else None if weights is None else Path(weights),
    )
    return take_form(learnt, again, about, bundle.low_bit)


def _backbone(
    spec: RunSpec, device: torch.device, places: Places, weights: str | Path | None, digest: str, folder: Path
) -> Backbone:
    """Return the backbone of a spec, if its weights are those that were learnt on."""
    if weights is not None:
        options = {**spec.backbone.options, "weights": str(weights)}
        spec = spec.model_copy(update={"backbone": Part(name=spec.backbone.name, options=options)})
    opened = opened_backbone(spec, device, folder=places.data_dir, digest=digest)
    if opened.weights_digest != digest:
        raise LearnerError(
            f"{folder} was learnt on other weights of {spec.backbone.name} (SHA-256 {digest[:12]}...) than"
            f" {opened.weights_source} ({opened.weights_digest[:12]}...); name their file with --weights"
        )
    return opened


def _named_again(spec: RunSpec, named: Mapping[str, str | None]) -> RunSpec:
    """Return the spec with the components of a user that were named again."""
    parts = {
        kind: Part(name=name, options=getattr(spec, kind).options)
        for kind, name in named.items()
        if name is not None and getattr(spec, kind) is not None
    }
    return spec.model_copy(update=parts)


def _formed_again(variant: Variant | None, named: Mapping[str, str | None]) -> Variant | None:
    """Return a variant with the quantiser and the compressor of a user that were named again."""
    if variant is None:
        return None
    parts = {
        kind: Part(name=str(named[kind]), options=part.options)
        for kind in USED
        if (part := getattr(variant, kind)) is not None and named[kind] is not None
    }
    return variant.model_copy(update=parts)


def _names_in(spec: RunSpec, variant: Variant | None) -> dict[str, str]:
    """Return the names of the components that loading makes, by kind."""
    kinds = {"strategy": spec.strategy, "petl": spec.petl, "backbone": spec.backbone}
    forms = {kind: getattr(variant, kind, None) or getattr(spec, kind) for kind in USED}
    return {kind: part.name for kind, part in {**kinds, **forms}.items() if part is not None}


def _without_code(history: History) -> History:
    """Return a history in which no stream is looked for that is in a file which the author named."""
    chapters = [
        replace(each, is_findable=each.is_findable and not is_address(str(each.stream.get("name", ""))))
        for each in history.chapters
    ]
    return replace(history, chapters=chapters)


def _refuse_changed(record: Record) -> None:
    for name in edited_start(record):
        raise LearnerError(f"cannot load {record.path}: its {name} has changed since it was written")


def _refuse_other_source(folder: Path, spec: RunSpec, digest: str) -> None:
    if not is_same_source(digest, get(spec.strategy.name)):
        raise LearnerError(
            f"cannot load {folder}: the file of strategy {spec.strategy.name} has changed since it learnt"
        )


def _from_its_data(record: Record, places: Places) -> History:
    """Return the history of a record of an earlier version, which only its stream knows."""
    from clbench.data.history import chapter_of, history_of
    from clbench.runs.earlier import build_stream

    spec = record.spec
    try:
        stream = build_stream(spec.stream, places, Seeds(spec.run.seed))
    except UserError as error:
        raise LearnerError(
            f"{record.path} was made by an earlier version, which did not write down what its classes are;"
            f" its data are needed: {error}"
        ) from error
    if stream.digest != record.read_json("hashes.json")["stream"]:
        raise LearnerError(f"cannot load {record.path}: its stream has changed since it was learnt")
    return history_of(stream, [chapter_of(stream, spec.to_dict()["stream"], spec.run.seed)])
