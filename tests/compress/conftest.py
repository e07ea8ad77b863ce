"""Share small transformers between the tests of token compressors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone


@pytest.fixture(scope="session")
def transformer() -> Callable[..., Backbone]:
    """A function that opens a small Vision Transformer of 16 patches, its weights far from zero.

    Its options are those of timm's, and ``distilled`` for one with a distillation token.
    """
    import torch
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    from clbench.backbones.backbone import Preprocessing
    from clbench.backbones.creation import open_model
    from clbench.seeds import forked

    def opened(*, distilled: bool = False, **options: Any) -> Backbone:
        kind = VisionTransformerDistilled if distilled else VisionTransformer
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
        with forked(0):
            model = kind(num_classes=0, **{**sizes, **options})
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        unit = (1.0, 1.0, 1.0)
        images = Preprocessing(32, unit, unit, 1.0, "bilinear")
        return open_model("small", model, images, source="random", digest="0")

    return opened
