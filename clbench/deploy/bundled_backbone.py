"""Put a learner's backbone into a bundle and take it out again, whatever form it computes in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from pydantic import BaseModel
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.given import Given
from clbench.deploy.learnt import Learnt
from clbench.petl.attached import Attached
from clbench.quant.files import put_back
from clbench.quant.quantised import form_of
from clbench.records.spec import RunSpec, Variant
from clbench.runs.backbone import opened_backbone
from clbench.runs.calibration import quantiser_of


class BackboneAbout(BaseModel):
    """What ``learner.json`` says of the backbone."""

    name: str
    digest: str  # SHA-256 over the names and values of its weights as they were read first
    source: str  # where they came from
    is_included: bool
    roundings: str = ""  # of a quantised one: what rounds which activation, as JSON
    absent: list[str] = []  # of a quantised one: the weights that low-bit ones have taken the place of
    folded: list[int] = []  # places of the modules at its sites that are merged into its weights


def about_backbone(learnt: Learnt, *, is_included: bool) -> BackboneAbout:
    """Return what ``learner.json`` is to say of a learner's backbone."""
    backbone = learnt.backbone
    about = BackboneAbout(
        name=backbone.name,
        digest=backbone.weights_digest,
        source=backbone.weights_source,
        is_included=is_included,
        folded=list(learnt.folded),
    )
    form = form_of(backbone)
    if form is None:
        return about
    held = backbone.model.state_dict()
    absent = [plain for plain, now in backbone.plain_names.items() if now not in held]
    told = {"roundings": json.dumps(form.described(), sort_keys=True), "absent": absent}
    return about.model_copy(update=told)


def opened(
    spec: RunSpec,
    about: BackboneAbout,
    weights: Mapping[str, Tensor],
    low_bit: Mapping[str, Tensor],
    device: torch.device,
    source: str,
) -> Backbone:
    """Return a backbone with weights that are known, quantised if it learnt so."""
    given = Given(weights, about.digest, source, frozenset(about.absent))
    backbone = opened_backbone(spec, device, given=given)
    if spec.quant is not None:
        put_back(low_bit, about.roundings, backbone, quantiser_of(spec.quant), source).settle()
    return backbone


def take_form(
    learnt: Learnt, variant: Variant | None, about: BackboneAbout, low_bit: Mapping[str, Tensor]
) -> Learnt:
    """Return what was learnt in the form of a variant, which its backbone's tensors have already."""
    if variant is None:
        return learnt
    if variant.own:
        learnt.strategy.become(variant.own)
    for place in about.folded:  # merged: the weights have it in them
        cast("Attached", learnt.backbone.attached[place]).enabled = False
    if variant.quant is not None:
        quantiser, backbone = quantiser_of(variant.quant), learnt.backbone
        put_back(low_bit, about.roundings, backbone, quantiser, backbone.weights_source).settle()
    spec = learnt.spec.model_copy(update={"deployed": variant})
    return replace(learnt, spec=spec, folded=tuple(about.folded))


def weights_of(backbone: Backbone) -> dict[str, Tensor]:
    """Return the backbone's own weights under timm's names, whatever modules have put in their places."""
    with _switched_off(backbone):
        held = backbone.model.state_dict()
        return {plain: held[now].clone() for plain, now in backbone.plain_names.items() if now in held}


@contextmanager
def _switched_off(backbone: Backbone) -> Iterator[None]:
    before = [(module, module.enabled) for module in backbone.attached]
    for module, _ in before:
        module.enabled = False
    try:
        yield
    finally:
        for module, was_on in before:
            module.enabled = was_on
