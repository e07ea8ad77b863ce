"""Define what a backbone is: an image encoder with named sites, opened from a timm model or our own.

``create(name, options)`` makes one. Any timm model name is a backbone name; those registered here come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from clbench.registry import Registry

if TYPE_CHECKING:
    from clbench.backbones.architecture import Architecture
    from clbench.backbones.backbone import Backbone
    from clbench.backbones.given import Given


@dataclass
class BackboneOptions:
    """How a backbone is made, whatever its name."""

    weights: str = (
        "default"  # default: the published ones, from a file of the network's name beside the data if there
        # is one; none: random ones; or a file of them
    )
    image_size: Annotated[int, Field(ge=0)] = 0  # pixels a side; 0: the model's own
    normalise: Literal["model", "unit", "half", "imagenet"] = "model"  # whose mean and std; unit: [0, 1]
    crop: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of a test image's side kept; 0: the model's own
    interpolation: Literal["model", "bilinear", "bicubic"] = "model"  # of resizing
    dtype: Literal["fp32", "bf16"] = "fp32"  # what the frozen weights are held in and computed with


def create(
    name: str,
    options: BackboneOptions | None = None,
    *,
    seed: int = 0,
    folder: Path | None = None,
    given: Given | None = None,
    digest: str = "",
) -> Backbone:
    """Return the named backbone, frozen and in eval mode; ``seed`` draws the weights when there are none.

    Published weights may lie in ``folder``, as ``<name>.safetensors``; ``given`` ones take the place of any.
    ``digest`` tells published weights from others that were published by the same name before.
    """
    from clbench.backbones.creation import create_backbone

    return create_backbone(
        name, options or BackboneOptions(), seed=seed, folder=folder, given=given, digest=digest
    )


registry: Registry[Architecture] = Registry("backbones", __name__)
register, get, names = registry.register, registry.get, registry.names

__all__ = ["BackboneOptions", "create", "get", "names", "register"]
