"""Write a learner into a folder that needs nothing beside it, and read it again.

``learner.json`` says what the learner is, ``learner.safetensors`` holds its tensors: the backbone's under
``backbone/``, the strategy's under ``state/<part>/``, low-bit layers packed. Nothing in a bundle is code, and
what it names that is in a user's file has to be named again by whoever loads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.given import BUNDLED
from clbench.data.history import History
from clbench.deploy.asking import scores_of
from clbench.deploy.bundled_backbone import (
    BackboneAbout,
    about_backbone,
    is_repaired,
    opened,
    plugin_in,
    take_form,
    weights_of,
    with_fewer_tokens,
)
from clbench.deploy.learnt import Learnt
from clbench.deploy.patterns import patterns
from clbench.deploy.rebuilding import rebuilt
from clbench.errors import UserError
from clbench.files import make_folder, rename_to, temporary_folder, write_bytes
from clbench.kinds import filled, kinds_of, only_to_learn
from clbench.outside.reading import read_bytes, read_json, told_in_one_line
from clbench.petl.attached import Attached
from clbench.quant.packed import packed_state
from clbench.quant.quantised import form_of
from clbench.records.histories import history_from, history_to
from clbench.records.json_text import to_json
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import Checkpoint, under, without_aliases
from clbench.version import __version__

FORMAT = 1
ABOUT, TENSORS = "learner.json", "learner.safetensors"
STATE, SUMMARY, LOW_BIT = "state/", "summary/", "quant/"
PLUGIN = "compress/plugin"  # the bytes of its file
EXEMPLARS = "exemplars"
NUM_CHECKED = 4  # generated pictures on which a bundle has to predict what the learner does


class BundleError(UserError, ValueError):
    """A bundle that cannot be written, or is not, or no longer, what was written."""


class About(BaseModel):
    """What ``learner.json`` holds."""

    format: int
    versions: dict[str, str]
    run: str  # id of the run that it comes from
    class_names: list[str]
    preprocessing: dict[str, Any]  # of stored images, for whoever reads them without clbench
    spec: dict[str, Any]
    history: dict[str, Any]
    backbone: BackboneAbout
    strategy_source: str
    left_out: list[str]  # tensors of the state that are not in the file
    is_packed: bool  # whether there are low-bit layers, which learn no more
    tensors: str  # SHA-256 of the other file
    variant: dict[str, Any] | None = None  # the form that it is in, of a learner that is in another


@dataclass(frozen=True)
class Bundle:
    """What was read from a bundle's two files."""

    spec: RunSpec
    history: History
    about: About
    backbone: dict[str, Tensor]
    state: dict[str, Tensor]
    summary: dict[str, Tensor]
    low_bit: dict[str, Tensor]  # of a quantised backbone
    plugin: bytes | None = None  # of what compresses its tokens

    def backbone_of(self, spec: RunSpec, device: torch.device, source: str) -> Backbone:
        """Return the backbone whose weights are in the bundle."""
        return opened(spec, self.about.backbone, self.backbone, self.low_bit, device, source)


def write_bundle(
    learnt: Learnt, folder: Path, *, without_backbone: bool, with_exemplars: bool, predict_only: bool
) -> Path:
    """Write a learner into a new folder; BundleError if something is there, or it would predict otherwise."""
    if os.path.lexists(folder):
        raise BundleError(f"{folder} is there already; nothing is overwritten")
    state, kinds = _state_of(learnt)
    left_out = set(learnt.left_out)
    form = form_of(learnt.backbone)
    if (form or learnt.folded or is_repaired(learnt)) and without_backbone:
        what = "that is quantised" if form else "with modules or a plug-in in its weights"
        raise BundleError(f"a backbone {what} is found nowhere else: it cannot be left out")
    folded = [cast("Attached", learnt.backbone.attached[place]) for place in learnt.folded]
    merged = {kind for kind, part in learnt.strategy.parts().items() if part in folded}
    left_out |= {name for name in state if name.partition("/")[0] in merged}
    if with_exemplars and (left_out or predict_only):
        what = f"{learnt.path} has no exemplars" if left_out else "who only predicts needs no exemplars"
        raise BundleError(f"{what} that could be taken along")
    if predict_only:
        for kind, part in learnt.strategy.parts().items():
            left_out |= {f"{kind}/{name}" for name in only_to_learn(part)}
    elif not with_exemplars:
        left_out |= {name for name in state if kinds[name] == EXEMPLARS}
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    weights = weights_of(learnt.backbone, is_repaired=is_repaired(learnt))
    low_bit = form.state() if form else {}
    about = _about(learnt, sorted(left_out), state, is_included=not without_backbone)
    summary = _checked_summary(learnt, kept, left_out, about.backbone, weights, low_bit)
    tensors = {STATE + name: tensor for name, tensor in kept.items()}
    tensors |= {SUMMARY + name: tensor for name, tensor in summary.items()}
    if not without_backbone:
        tensors |= {BUNDLED + name: tensor for name, tensor in weights.items()}
        tensors |= {LOW_BIT + name: tensor for name, tensor in low_bit.items()}
    plugin = plugin_in(learnt.backbone)
    if plugin is not None:
        tensors[PLUGIN] = torch.frombuffer(bytearray(plugin), dtype=torch.uint8)
    data = save(without_aliases({name: each.detach().cpu().contiguous() for name, each in tensors.items()}))
    about = about.model_copy(update={"tensors": hashlib.sha256(data).hexdigest()})
    make_folder(folder.parent)
    with temporary_folder(folder) as made:
        write_bytes(made / TENSORS, data)
        write_bytes(made / ABOUT, (to_json(about.model_dump()) + "\n").encode())
        return rename_to(made, folder)


def is_bundle(folder: Path) -> bool:
    """Tell whether a folder is a bundle, by the name of a file in it."""
    return (folder / ABOUT).is_file()


def read_bundle(folder: Path) -> Bundle:
    """Return what a bundle holds; BundleError or RecordError in one line for what is no bundle."""
    file = folder / ABOUT
    value = read_json(file)
    with told_in_one_line(file):
        if isinstance(value, dict) and value.get("format") not in (None, FORMAT):
            raise BundleError(
                f"{file} is of format {value['format']!r}, and this version of clbench reads {FORMAT}"
            )
        try:
            about = About.model_validate(value)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise BundleError(f"{file} is not what clbench export writes: {place}") from error
        try:
            spec, history = RunSpec.from_dict(about.spec), history_from(about.history)
        except UserError as error:
            raise BundleError(f"{file} holds no spec of a run: {error}") from error
    data = read_bytes(folder / TENSORS)
    if hashlib.sha256(data).hexdigest() != about.tensors:
        raise BundleError(f"{folder / TENSORS} has changed since it was written; export the learner again")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise BundleError(f"cannot read {folder / TENSORS}: {error}") from error
    plugin = tensors[PLUGIN].numpy().tobytes() if PLUGIN in tensors else None
    weights, state, summary, low_bit = (
        under(prefix, tensors) for prefix in (BUNDLED, STATE, SUMMARY, LOW_BIT)
    )
    return Bundle(spec, history, about, weights, state, summary, low_bit, plugin)


def _state_of(learnt: Learnt) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what the parts of a strategy hold, packed, and what kind each tensor is of."""
    state: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    for kind, part in learnt.strategy.parts().items():
        packed = {**packed_state(part), **filled(part)}
        state |= {f"{kind}/{name}": tensor for name, tensor in packed.items()}
        kinds |= {f"{kind}/{name}": its for name, its in kinds_of(part, packed).items()}
    return state, kinds


def _checked_summary(
    learnt: Learnt,
    kept: dict[str, Tensor],
    left_out: set[str],
    about: BackboneAbout,
    weights: dict[str, Tensor],
    low_bit: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return what stands in for what is left out, once a twin without that was seen to predict the same."""
    size = learnt.history.height, learnt.history.width
    pixels = patterns(NUM_CHECKED, *size)
    task = 0 if learnt.history.scenario == "task" else None
    expected = scores_of(learnt, pixels, task)
    summary = learnt.strategy.summary() if left_out else {}
    backbone = opened(learnt.spec, about, weights, low_bit, learnt.device, about.source)
    plugin, variant = plugin_in(learnt.backbone), learnt.spec.deployed
    with_fewer_tokens(backbone, learnt.spec, variant, plugin, is_folded=about.is_repaired)
    checkpoint = Checkpoint(learnt.checkpoint.position, kept, {})
    found = rebuilt(
        learnt.spec,
        learnt.history,
        backbone,
        checkpoint,
        origin=learnt.origin,
        left_out=tuple(left_out),
        summary=summary,
    )
    found = take_form(found, learnt.spec.deployed, about, low_bit)
    if torch.equal(scores_of(found, pixels, task), expected):
        return summary
    name = learnt.spec.strategy.name
    if left_out:
        raise BundleError(
            f"strategy {name} predicts by the pictures in its memory, and otherwise without them: take them"
            " along with --exemplars (in Python with_exemplars=True), if whoever gets the bundle may see them"
        )
    raise BundleError(
        f"strategy {name} does not predict the same when it is loaded again: what predict() uses is not all"
        " in parts()"
    )


def _about(learnt: Learnt, left_out: list[str], state: Mapping[str, Tensor], *, is_included: bool) -> About:
    backbone, history, variant = learnt.backbone, learnt.history, learnt.spec.deployed
    preprocessing = {
        **asdict(backbone.preprocessing),
        "stored_height": history.height,
        "stored_width": history.width,
    }
    unpacked = {
        f"{kind}/{name}" for kind, part in learnt.strategy.parts().items() for name in part.state_dict()
    }
    return About(
        format=FORMAT,
        versions={"clbench": __version__, "torch": version("torch"), "timm": version("timm")},
        run=learnt.origin.id,
        class_names=[*learnt.class_names],
        preprocessing=preprocessing,
        spec=learnt.origin.to_dict(),
        history=history_to(history),
        backbone=about_backbone(learnt, is_included=is_included),
        strategy_source=learnt.strategy_source,
        left_out=left_out,
        is_packed=not state.keys() <= unpacked,
        tensors="",
        variant=variant.to_dict() if variant else None,
    )
