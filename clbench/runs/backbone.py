"""Open the backbone that a spec names, in the forms that it was learnt in, as every learner of it does."""

from __future__ import annotations

from pathlib import Path

import torch

from clbench import backbones
from clbench.backbones.backbone import Backbone
from clbench.backbones.given import Given
from clbench.options import build
from clbench.outside.reading import read_bytes
from clbench.records.spec import RunSpec
from clbench.runs import compressing, quantising
from clbench.seeds import Seeds


def kept_forms(spec: RunSpec, folder: Path) -> dict[str, bytes]:
    """Return what a record keeps of its backbone's forms, by file name; RecordError where one is missing."""
    names = [quantising.FILE] if spec.quant else []
    if spec.compress and compressing.compressor_of(spec.compress).plugin_file:
        names.append(compressing.FILE)
    return {name: read_bytes(folder / name) for name in names}


def in_its_forms(spec: RunSpec, backbone: Backbone, folder: Path) -> None:
    """Let a backbone compute as it did in a run that is in a folder."""
    kept = kept_forms(spec, folder)
    if spec.compress is not None:
        compressing.compressed(spec.compress, backbone, kept.get(compressing.FILE))
    if spec.quant is not None:
        source = str(folder / quantising.FILE)
        quantising.quantised_as_before(spec.quant, backbone, kept[quantising.FILE], source)


def opened_backbone(
    spec: RunSpec,
    device: torch.device,
    *,
    folder: Path | None = None,
    given: Given | None = None,
    digest: str = "",
) -> Backbone:
    """Return it on a device; published weights may lie in ``folder``, ``given`` ones replace any.

    ``digest`` is that of the weights that a record was made with, if there is one.
    """
    options = build(backbones.BackboneOptions, "backbone", spec.backbone.options)
    seed = Seeds(spec.run.seed).derive("weights")
    backbone = backbones.create(
        spec.backbone.name, options, seed=seed, folder=folder, given=given, digest=digest
    )
    return backbone.to(device)
