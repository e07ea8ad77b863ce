"""Put a learner's backbone into a bundle and take it out again, whatever form it computes in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from pydantic import BaseModel
from torch import Tensor

from clbench.backbones.backbone import AttachedModule, Backbone, FewerTokens
from clbench.backbones.given import Given
from clbench.deploy.learnt import Learnt
from clbench.petl.attached import Attached
from clbench.quant.files import put_back
from clbench.quant.quantised import form_of
from clbench.records.spec import RunSpec, Variant
from clbench.runs.backbone import opened_backbone
from clbench.runs.calibration import quantiser_of
from clbench.runs.compressing import compressed
from clbench.runs.compressing import form_of as fewer_tokens


class BackboneAbout(BaseModel):
    """What ``learner.json`` says of the backbone."""

    name: str
    digest: str  # SHA-256 over the names and values of its weights as they were read first
    source: str  # where they came from
    is_included: bool
    roundings: str = ""  # of a quantised one: what rounds which activation, as JSON
    absent: list[str] = []  # of a quantised one: the weights that low-bit ones have taken the place of
    is_repaired: bool = False  # whether the plug-in of what compresses its tokens is in its weights
    folded: list[int] = []  # places of the modules at its sites that are merged into its weights


def about_backbone(learnt: Learnt, *, is_included: bool) -> BackboneAbout:
    """Return what ``learner.json`` is to say of a learner's backbone."""
    backbone = learnt.backbone
    about = BackboneAbout(
        name=backbone.name,
        digest=backbone.weights_digest,
        source=backbone.weights_source,
        is_included=is_included,
        is_repaired=is_repaired(learnt),
        folded=list(learnt.folded),
    )
    form = form_of(backbone)
    if form is None:
        return about
    held = backbone.model.state_dict()
    absent = [plain for plain, now in backbone.plain_names.items() if now not in held]
    told = {"roundings": json.dumps(form.described(), sort_keys=True), "absent": absent}
    return about.model_copy(update=told)


def is_repaired(learnt: Learnt) -> bool:
    """Tell whether a plug-in stays in the weights: below modules that a variant has merged, it has to."""
    return learnt.spec.deployed is not None and plugin_in(learnt.backbone) is not None


def plugin_in(backbone: Backbone) -> bytes | None:
    """Return the plug-in of what compresses a backbone's tokens, if it has one."""
    form = fewer_tokens(backbone)
    return None if form is None else form.plugin


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


def with_fewer_tokens(
    backbone: Backbone, spec: RunSpec, variant: Variant | None, plugin: bytes | None, *, is_folded: bool
) -> None:
    """Compress a backbone as the variant is, or as it learnt; the ``plugin`` comes from a bundle."""
    part = variant.compress if variant and variant.compress else spec.compress
    if part is not None:
        compressed(part, backbone, plugin or b"", is_folded=is_folded)


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


def weights_of(backbone: Backbone, *, is_repaired: bool = False) -> dict[str, Tensor]:
    """Return the backbone's own weights under timm's names, whatever modules have put in their places.

    ``is_repaired``: with what a plug-in has done to them.
    """
    with _switched_off(backbone, () if is_repaired else backbone.compressed):
        held = backbone.model.state_dict()
        return {plain: held[now].clone() for plain, now in backbone.plain_names.items() if now in held}


@contextmanager
def _switched_off(backbone: Backbone, forms: Sequence[FewerTokens]) -> Iterator[None]:
    switches: list[FewerTokens | AttachedModule] = [*forms, *backbone.attached]
    before = [(each, each.enabled) for each in switches]
    for each, _ in before:
        each.enabled = False
    try:
        yield
    finally:
        for each, was_on in reversed(before):
            each.enabled = was_on
