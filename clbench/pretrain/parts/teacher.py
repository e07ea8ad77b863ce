"""Ask a larger backbone what each training image shows, so that a small one learns more than one class of it.

G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, in the
form that costs least: the teacher sees each image once, as it is stored, and its opinion of that stays part
of the label, however the image is augmented. A backbone has no classes of its own here: its logits are those
of a linear discriminant of its features of the training images, at temperature 4 (``parts/readout.py``).

Shape letters: N images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.data.batches import Batcher
from clbench.pretrain.materials import Materials
from clbench.pretrain.parts.readout import discriminant_of, seen


def opinions(teacher: str, image_size: int, materials: Materials) -> Tensor:
    """Return probabilities (N, C + extra classes) for the training images; rows of extra classes are 0.

    Args:
        teacher: The backbone's name; its weights are those it is known for.
        image_size: Pixels that it sees images at; 0: its own size.
        materials: Whose training images are looked at.
    """
    options = BackboneOptions(image_size=image_size, crop=1.0)
    backbone = backbones.create(teacher, options, folder=materials.places.data_dir).to(materials.device)
    images = materials.batcher.images
    batcher = Batcher(images, backbone.preprocessing, "none", materials.device)
    train = materials.train
    is_own = train.labels < materials.num_classes
    samples = train.select(is_own)
    features = seen(backbone, batcher, samples)
    weight, bias = discriminant_of(features, torch.from_numpy(samples.labels), materials.num_classes)
    logits = features.double() @ weight.double().T + bias.double()
    found = torch.zeros(len(train), materials.num_classes + materials.num_extra)
    found[torch.from_numpy(is_own), : materials.num_classes] = logits.softmax(dim=1).float().cpu()
    return found
