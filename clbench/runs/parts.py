"""Make the components that a spec names: stream, backbone, module, strategy, ready to start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from clbench import devices, evaluate, petl, strategies
from clbench.backbones.backbone import Backbone
from clbench.compress.compressed import Compressed
from clbench.data.continued import continued
from clbench.data.history import History, chapter_of, history_of
from clbench.data.tasks import Places, TaskStream
from clbench.options import build
from clbench.outside.mistakes import explained
from clbench.quant.quantised import Quantised
from clbench.records.spec import RunSpec
from clbench.report.units import quantity
from clbench.runs.backbone import opened_backbone
from clbench.runs.calibration import refuse_uncalibrated
from clbench.runs.compressing import compressed, plugin_of, refuse_misfits
from clbench.runs.earlier import build_stream, earlier_stream, refuse_missing_images, remembered_by, told
from clbench.runs.needs import cautions, refuse_impossible, refuse_unknown_classes, refuse_waiting
from clbench.runs.quantising import FILE, form_of
from clbench.runs.returned import checked_parts
from clbench.runs.scored import scored_on_validation
from clbench.runs.sources import source_digest
from clbench.seeds import Seeds
from clbench.strategies import Strategy


@dataclass(frozen=True)
class Parts:
    """The components of a run, ready to start."""

    stream: TaskStream
    backbone: Backbone
    strategy: Strategy
    seeds: Seeds
    device: torch.device
    history: History  # what will have been learnt when the run ends
    form: Quantised | None = None  # in which the backbone computes with few bits
    fewer: Compressed | None = None  # in which it goes on with fewer tokens

    def hashes(self) -> dict[str, str]:
        """Return what must be equal for two runs to be the same, or to be compared."""
        forms = {"quant": self.form, "compress": self.fewer}
        return {
            "stream": self.stream.digest,
            "weights": self.backbone.weights_digest,
            "strategy_source": source_digest(type(self.strategy)),
            **{kind: form.state_key() for kind, form in forms.items() if form},
        }


def prepare(
    spec: RunSpec,
    places: Places,
    before: History | None = None,
    files: Mapping[str, bytes] = {},
    *,
    weights: str = "",
) -> Parts:
    """Make every component that a spec names; ``before`` is what a run that learns on has learnt before.

    ``files`` are those of its record that are there already, such as the form of few bits of its backbone;
    ``weights`` is the digest of those that it was begun with.
    """
    seeds = Seeds(spec.run.seed)
    device = torch.device(devices.present(spec.run.device))
    own = build_stream(spec.stream, places, seeds)
    if spec.run.scored_on == "validation":
        own = scored_on_validation(own, learns_on=before is not None)
    backbone = opened_backbone(spec, device, folder=places.data_dir, digest=weights)
    strategy = build(strategies.get(spec.strategy.name), "strategy", spec.strategy.options)
    stream, chapters = own, [*(before.chapters if before else [])]
    if before:
        earlier = [earlier_stream(chapter, before.class_names, places) for chapter in before.chapters]
        stream = continued(before, earlier, own, remembered=partial(remembered_by, strategy))
        refuse_missing_images(spec.strategy.name, strategy, before, earlier)
        stream = replace(stream, notes=[*told(before, earlier), *own.notes])
    refuse_impossible(spec.strategy.name, strategy, stream, backbone)
    fewer = compressed(spec.compress, backbone, plugin_of(spec.compress, files)) if spec.compress else None
    form = form_of(spec, backbone, stream, seeds, files.get(FILE))
    evaluate.find_all(spec.run.metrics)  # before anything is learnt: one that is not there is told now
    if spec.run.eval_ahead:
        refuse_unknown_classes(stream)
    if spec.run.step_cost > 1:
        refuse_waiting(stream)
    module = build(petl.get(spec.petl.name), "petl", spec.petl.options)
    with explained(strategy, module):
        strategy.setup(backbone, module, seeds)
        checked_parts(strategy)
    refuse_uncalibrated(spec, strategy, stream)
    refuse_misfits(spec, backbone)
    chapters.append(chapter_of(own, spec.to_dict()["stream"], spec.run.seed))
    return Parts(stream, backbone, strategy, seeds, device, history_of(stream, chapters), form, fewer)


def notes_of(spec: RunSpec, parts: Parts) -> list[str]:
    """Return what a user should know of the data, the weights and the strategy before the first task."""
    told = [f"caution: {each}" for each in cautions(spec.strategy.name, parts.strategy, parts.stream)]
    forms = [_said_of(parts.form, parts.backbone)] if parts.form else []
    if parts.fewer:
        forms.append(f"compressed: {', '.join(map(str, parts.fewer.token_counts))} tokens behind the blocks")
    return [*parts.stream.notes, *parts.backbone.notes, *forms, *told]


def _said_of(form: Quantised, backbone: Backbone) -> str:
    """Say what of a backbone is held in few bits, and how many bytes it takes."""
    bits = Counter(layer.stored.bits for layer in form.layers.values())
    layers = " and ".join(f"{number} layers in {each} bits" for each, number in sorted(bits.items()))
    return f"quantised: {layers}, {quantity(backbone.num_bytes, unit='B')} in all"
