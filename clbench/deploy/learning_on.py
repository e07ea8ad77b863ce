"""Let a learner learn on: further tasks behind those that it has learnt, in a record of their own.

The new record begins with what the old one held when its last task had ended, and goes on in the same loop:
what comes of it is what a run of all tasks would have made. The old record is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clbench import streams
from clbench.backbones.sites import HALF
from clbench.data.tasks import Places
from clbench.deploy.bundled_backbone import plugin_in
from clbench.deploy.learnt import Learnt
from clbench.errors import UserError
from clbench.options import complete, option_types
from clbench.outside.reading import read_bytes
from clbench.quant.files import to_bytes
from clbench.quant.quantised import form_of
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import run_options
from clbench.records.spec import Parent, Part, RunSpec
from clbench.runs import line
from clbench.runs.checkpoint import Checkpoint, named_bytes
from clbench.runs.compressing import FILE as PLUGIN
from clbench.runs.quantising import FILE

CHANGEABLE = ("stream", "strategy", "run")  # sections of which options may be given
FIXED = ("seed", "precision")  # options of the run that what was learnt depends on


class LearnOnError(UserError, ValueError):
    """A learner that cannot learn on, or not so."""


def learn_on(
    learnt: Learnt,
    stream: str,
    *,
    settings: Mapping[str, Mapping[str, Any]] = {},
    out: Path | str = "runs",
    places: Places | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Record:
    """Learn the tasks of a stream, and return the new record in ``out``.

    ``settings`` are options by section, as in ``{"strategy": {"epochs": 3}}``; others are those of before.
    The stream is one task unless its options say otherwise.
    """
    _refuse_what_cannot(learnt)
    spec = _spec(learnt, stream, settings)
    is_rounded = learnt.weights is not None and learnt.backbone.dtype in HALF
    weights = None if is_rounded else learnt.backbone.weights_digest
    checkpoint = _checkpoint(learnt)
    start = line.Start(learnt.history, checkpoint, weights, _files(learnt, checkpoint))
    return line.execute(spec, out=out, places=places, progress=progress, command=command, start=start)


def _refuse_what_cannot(learnt: Learnt) -> None:
    name, where = learnt.spec.strategy.name, learnt.path
    if learnt.spec.deployed:
        raise LearnOnError(
            f"{where} is a variant ({learnt.spec.deployed.name}), which learns no more; learn on from the run"
        )
    if not learnt.strategy.resumable:
        raise LearnOnError(
            f"strategy {name} cannot learn on: what it learns by is not all in tensors that can be stored"
        )
    if learnt.left_out:
        raise LearnOnError(
            f"{where} was saved without what strategy {name} learns on with, such as {learnt.left_out[0]};"
            " learn on from the run's folder, or from a bundle exported with --exemplars"
        )
    if learnt.is_packed:
        raise LearnOnError(
            f"{where} holds low-bit layers as they are stored, which learn no more; learn on from the run's"
            " folder"
        )


def _spec(learnt: Learnt, stream: str, settings: Mapping[str, Mapping[str, Any]]) -> RunSpec:
    """Return the spec of the new run: the stream's is new, all else is the learner's but for the settings."""
    for section, options in settings.items():
        if section not in CHANGEABLE:
            raise LearnOnError(
                f"{section}.{next(iter(options), '')} is the learner's own and cannot be changed"
                f" (allowed: options of {', '.join(CHANGEABLE)})"
            )
    old, history = learnt.spec, learnt.history
    name, argument = streams.split(stream)
    kind = streams.get(name)
    as_before = {"augment": history.augment, "tasks": "1", "online": str(history.micro_batch)}
    if history.height == history.width:
        as_before["stored_size"] = str(history.height)
    known = {key: value for key, value in as_before.items() if key in option_types(kind)}
    chosen = {**known, **argument, **settings.get("stream", {})}
    strategy = {**old.strategy.options, **settings.get("strategy", {})}
    run = {**old.run.model_dump(), "probe_images": 0, **settings.get("run", {})}
    if str(run["probe_images"]) != "0":
        raise LearnOnError(
            "run.probe_images: a probe set is of all tasks of a run, so that what was probed before cannot be"
            " compared with what comes now; leave it at 0"
        )
    for option in FIXED:
        if str(run[option]) != str(getattr(old.run, option)):
            raise LearnOnError(f"run.{option} is the learner's own and cannot be changed")
    return RunSpec(
        stream=Part(name=name, options=complete(kind, "stream", chosen)),
        strategy=Part(name=old.strategy.name, options=complete(type(learnt.strategy), "strategy", strategy)),
        backbone=Part(name=old.backbone.name, options=_backbone_options(learnt)),
        petl=old.petl,
        quant=old.quant,
        compress=old.compress,
        run=run_options(run),
        parent=Parent(
            id=learnt.origin.id,
            group=learnt.origin.group,
            learner=learnt.state_digest(),
            tasks=learnt.num_tasks,
        ),
    )


def _backbone_options(learnt: Learnt) -> dict[str, Any]:
    """Return the backbone's options, with the file that its weights are in now."""
    where = {} if learnt.weights is None else {"weights": str(learnt.weights.resolve())}
    return {**learnt.spec.backbone.options, **where}


def _checkpoint(learnt: Learnt) -> Checkpoint:
    """Return what the new run begins from: rows of features are numbered anew in it."""
    info = learnt.checkpoint.info
    return replace(learnt.checkpoint, info={**info, "features": {}} if info else {})


def _files(learnt: Learnt, checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return what the new record holds from the start, by file name."""
    name, data = named_bytes(checkpoint, 0)
    files = {f"checkpoint/{name}": data}
    if form := form_of(learnt.backbone):
        files[FILE] = to_bytes(form)
    if (plugin := plugin_in(learnt.backbone)) is not None:
        files[PLUGIN] = plugin
    folder = learnt.path
    if folder is None or not (folder / "spec.toml").is_file():  # a bundle: what was predicted is not in it
        return files
    for task in range(learnt.num_tasks):
        for known in (
            f"checkpoint/ended/task-{task:02d}.json",
            f"predictions/after-task-{task:02d}.parquet",
        ):
            if (folder / known).is_file():
                files[known] = read_bytes(folder / known)
    if (folder / "predictions/before.parquet").is_file():
        files["predictions/before.parquet"] = read_bytes(folder / "predictions/before.parquet")
    return files
