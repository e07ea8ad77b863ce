"""Modules incubated apart in one meta model fit together; those of different meta models do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clbench.data.tasks import Places
from clbench.pretrain.asked import asked
from clbench.pretrain.incubation import META, WHOLE, Incubating
from clbench.pretrain.materials import gathered
from clbench.pretrain.parts.glyphs import glyphs

CLASSES, IMAGES, HELD_OUT = 10, 200, 40
EPOCHS = {
    "meta_epochs": 20,
    "module_epochs": 10,
    "epochs": 1,
    "warm_up": 2.0,
    "mixup": 0,
    "learning_rate": 0.012,
}
DEEP = '''
"""A Vision Transformer of eight blocks."""

from timm.models.vision_transformer import VisionTransformer

from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Preprocessing


class Deep(Architecture):
    def build(self):
        return VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=8, num_heads=4, num_classes=0
        )

    def published(self):
        return self.build(), "random"

    def preprocessing(self, model):
        return Preprocessing(32, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
'''


@pytest.mark.slow
def test_modules_of_one_meta_model_fit_together_before_they_are_fine_tuned(tmp_path: Path) -> None:
    images, labels = glyphs(CLASSES, IMAGES + HELD_OUT, (32, 32), torch.Generator().manual_seed(0))
    is_test = np.arange(len(labels)) % (IMAGES + HELD_OUT) >= IMAGES
    parts = {"train": ~is_test, "test": is_test}
    arrays = {
        f"{part}_{axis}": values[chosen]
        for part, chosen in parts.items()
        for axis, values in (("x", images), ("y", labels))
    }
    np.savez(tmp_path / "glyphs.npz", **arrays)
    (tmp_path / "deep.py").write_text(DEEP)
    first, second = (incubated(tmp_path, seed) for seed in (0, 1))
    own = accuracy(first)
    for module in first.modules[1:]:
        first.results[module] = second.results[module]
    mixed = accuracy(first)
    assert own > 3 / CLASSES
    assert own > mixed + 0.15


def incubated(folder: Path, seed: int) -> Incubating:
    """A course whose modules are done."""
    sections = {
        "pretrain": {**EPOCHS, "batch_size": 64, "modules": 2},
        "stream": {"validation_rate": 0, "augment": "none"},
    }
    backbone, stream = f"{folder / 'deep.py'}:Deep", f"npz:{folder / 'glyphs.npz'}"
    wanted = asked("incubation", backbone=backbone, stream=stream, sections=sections, seed=seed)
    course = wanted.made_method().begin(gathered(wanted, Places(cache_dir=folder / "cache")))
    assert isinstance(course, Incubating)
    for name in (META, *course.modules):
        while name not in course.results:
            course.advance(name)
    return course


def accuracy(course: Incubating) -> float:
    """Of the modules put together, on test images."""
    materials = course.materials
    return course.network(WHOLE).accuracy(materials.batcher, materials.test)
