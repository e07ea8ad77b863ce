"""Take a model out of clbench: the weights under the names that timm gives them, modules merged."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.carried import NAME, carried_by
from clbench.errors import UserError
from clbench.petl import registry
from clbench.petl.attached import Attached


class NotPlainError(UserError, TypeError):
    """A model that no plain model of timm's computes like."""


def plain_weights(model: nn.Module | Backbone) -> dict[str, Tensor]:
    """Return the tensors of a model as timm names them; NotPlainError while a module is felt beside them."""
    if isinstance(model, Backbone):
        backbone = model
    elif carried := carried_by(model):
        backbone = cast("Backbone", carried.backbone)
    else:
        return dict(model.state_dict())  # never opened
    if any(form.enabled for form in backbone.quantised):
        raise NotPlainError("the backbone computes with few bits, which no plain model of timm's does")
    for attached in cast("list[Attached]", backbone.attached):
        if attached.enabled and attached.num_branches:
            name = registry.name_of(type(attached.petl))
            raise NotPlainError(f"{name} is not merged: call merge() on it, or set its enabled to False")
    state = backbone.model.state_dict()
    _check_all_have_a_place(state, backbone)
    return {plain: state[name] for plain, name in backbone.plain_names.items()}


def _check_all_have_a_place(state: dict[str, Tensor], backbone: Backbone) -> None:
    """Raise NotPlainError for a tensor that merging has added."""
    known = set(backbone.plain_names.values())
    plain_layers = {name.rpartition(".")[0]: plain for plain, name in backbone.plain_names.items()}
    for name in state:
        if name not in known and not name.startswith(f"{NAME}."):
            layer, _, tensor = name.rpartition(".")
            plain = plain_layers.get(layer, name).rpartition(".")[0]
            raise NotPlainError(
                f"merging gave {plain} a {tensor}, for which timm's {backbone.name} has no place"
            )
