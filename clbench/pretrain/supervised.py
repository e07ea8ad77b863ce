"""Define what the methods share that learn a whole backbone from labels: the recipe, and its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from clbench.pretrain import PretrainingMethod
from clbench.pretrain.materials import Materials

# H. Touvron et al., "Training data-efficient image transformers & distillation through attention" (DeiT),
# ICML 2021, arXiv 2012.12877, with the batch, the rate and the warm-up that Deep Incubation has
DEIT: dict[str, Any] = {
    "batch_size": 2048,
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
    "warm_up": 20.0,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "erasing": 0.25,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "repeats": 3,
    "augment": "rrc-flip",
    "drop_path": 0.1,
}


@dataclass(frozen=True)
class Supervised(PretrainingMethod):
    """Cross-entropy with AdamW: a line to the highest rate, then a cosine down to 1e-5.

    Neither biases nor any other vectors decay, nor do position embedding and class token.
    """

    backbone_preset: ClassVar[dict[str, bool | int | float | str]] = {"weights": "none"}

    recipe: Literal["small", "deit"] = "small"  # whose numbers are the defaults of all below
    epochs: Annotated[int, Field(ge=1)] = 40  # over all training images, of the whole network
    batch_size: Annotated[int, Field(ge=2)] = 128  # images a step
    accumulate: Annotated[int, Field(ge=1)] = 1  # parts that a batch is taken in, one after the other
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3  # for 512 images; in proportion for others
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # of AdamW
    warm_up: Annotated[float, Field(ge=0)] = 2.0  # epochs in which the rate rises
    clip: Annotated[float, Field(ge=0)] = 1.0  # norm that all gradients together are cut to; 0: any
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of a label that all classes get
    mixup: Annotated[float, Field(ge=0)] = 0.2  # Beta distribution of mixup; 0: none
    cutmix: Annotated[float, Field(ge=0)] = 0.0  # Beta distribution of cutmix; 0: none
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the images that lose a rectangle
    auto_augment: str = ""  # timm's name of a random augmentation, as rand-m9-mstd0.5-inc1; empty: none
    repeats: Annotated[int, Field(ge=1)] = 1  # how often an image is in a batch, augmented anew
    augment: Literal["stream", "none", "crop", "crop-flip", "rrc", "rrc-flip"] = "stream"  # stream: its own
    least_area: Annotated[float, Field(gt=0, le=1)] = 0.08  # of an image that a crop of rrc covers at least
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the last block; of others evenly less
    glyphs: Annotated[int, Field(ge=0)] = 0  # classes of generated drawings that are learnt beside; 0: none
    teacher: str = ""  # a backbone whose opinion of each image is part of its label; empty: none
    teacher_size: Annotated[int, Field(ge=0)] = 0  # pixels that it sees images at; 0: its own size
    teacher_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of its opinion in a label
    stored: Literal["fp32", "fp16"] = "fp32"  # what the file holds

    def told_first(self, materials: Materials) -> list[str]:
        """Return what a user should know before the first step, a line each."""
        weights, labels = materials.backbone.weights_source, materials.train.labels
        num_seen = int((labels < materials.num_classes).sum())
        return [
            *([f"begins with the weights of {weights}"] if weights != "random" else []),
            *([f"{self.teacher} looks at {num_seen:,} images first"] if self.teacher else []),
        ]
