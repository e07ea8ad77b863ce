"""Look at what a backbone computes and holds, for the contracts of what changes it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone


def drawn_images(backbone: Backbone, generator: torch.Generator) -> Tensor:
    """Return four images (4, 3, S, S): noise about a colour of each image's own.

    Noise alone looks the same to a network that takes means over it, whichever image it is.
    """
    size = backbone.preprocessing.image_size
    colours = torch.randn(4, 3, 1, 1, generator=generator)
    return colours + torch.randn(4, 3, size, size, generator=generator)


@torch.no_grad()
def features_of(backbone: Backbone, images: Tensor) -> Tensor:
    """Return the features (B, D)."""
    features: Tensor = backbone(images)
    return features


def gap(features: Tensor, reference: Tensor) -> float:
    """Return how far features are from others at most, relative to the size of these."""
    return float((features - reference).abs().max() / reference.abs().max())


def refuse_changed(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Raise AssertionError unless the backbone's own tensors are those of an earlier state."""
    after = backbone.state_dict()
    is_same = after.keys() == state.keys() and all(torch.equal(after[name], state[name]) for name in state)
    assert is_same, "the backbone's own tensors changed"
