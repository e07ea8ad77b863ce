"""Open the backbone that a spec names, as every run and every learner of it does."""

from __future__ import annotations

from pathlib import Path

import torch

from clbench import backbones
from clbench.backbones.backbone import Backbone
from clbench.backbones.given import Given
from clbench.options import build
from clbench.records.spec import RunSpec
from clbench.seeds import Seeds


def opened_backbone(
    spec: RunSpec, device: torch.device, *, folder: Path | None = None, given: Given | None = None
) -> Backbone:
    """Return it on a device; published weights may lie in ``folder``, ``given`` ones replace any."""
    options = build(backbones.BackboneOptions, "backbone", spec.backbone.options)
    seed = Seeds(spec.run.seed).derive("weights")
    return backbones.create(spec.backbone.name, options, seed=seed, folder=folder, given=given).to(device)
