"""Put tensors that are trained into the places of a backbone's own, and take them out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.petl.merging import conform


def trained_copies(backbone: Backbone, names: Sequence[str]) -> dict[str, Tensor]:
    """Return trainable copies of the backbone's named parameters, and plain copies of its named buffers."""
    copies: dict[str, Tensor] = {}
    for name in names:
        tensor = tensor_of(backbone, name)
        clone = tensor.detach().clone()
        copies[name] = nn.Parameter(clone) if isinstance(tensor, nn.Parameter) else clone
    return copies


def tensor_of(backbone: Backbone, name: str) -> Tensor:
    """Return what is in the backbone's place of that name."""
    path, _, attribute = name.rpartition(".")
    return cast("Tensor", getattr(backbone.get_submodule(path), attribute))


def install(backbone: Backbone, name: str, tensor: Tensor) -> None:
    """Put a tensor in the backbone's place of that name, if there still is one."""
    path, _, attribute = name.rpartition(".")
    owner = backbone.get_submodule(path)
    slots = owner._parameters if attribute in owner._parameters else owner._buffers
    if attribute not in slots:  # a low-bit layer is there now, which holds what the tensor was
        return
    conform(tensor, tensor_of(backbone, name))  # the backbone may have been cast or moved meanwhile
    cast("dict[str, Tensor | None]", slots)[attribute] = tensor


def key_of(name: str) -> str:
    """Return the name here of a backbone's tensor: a registered name must not hold a dot."""
    return name.replace(".", "/")
