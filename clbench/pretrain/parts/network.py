"""Put a classifier on a backbone, let some of it learn, and name every tensor as timm does.

Shape letters: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher, in_order
from clbench.data.samples import Samples
from clbench.petl.saving import with_metadata
from clbench.seeds import forked

SPREAD = 0.02  # standard deviation that classifier and class token begin with
BATCH = 256  # images at a time when it is tested
UNDECAYED = ("pos_embed", "cls_token", "reg_token", "dist_token")


class Network(nn.Module):
    """A backbone with a classifier; nothing learns before ``let_learn``."""

    def __init__(self, backbone: Backbone, num_classes: int, seed: int, *, num_extra: int = 0) -> None:
        """Draw the classifier and, where the weights are random, the class token: timm's is nearly 0.

        ``num_extra`` classes behind the others are learnt from; no answer and no file has them.
        """
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        with forked(seed):
            self.head = nn.Linear(backbone.width, num_classes + num_extra)
            nn.init.trunc_normal_(self.head.weight, std=SPREAD)
            nn.init.zeros_(self.head.bias)
            token = getattr(backbone.model, "cls_token", None)
            if token is not None and backbone.weights_source == "random":
                drawn = nn.init.trunc_normal_(torch.empty(token.shape), std=SPREAD)
                token.data.copy_(drawn)
        self.head.to(backbone.device).requires_grad_(False)
        self.learning: dict[str, nn.Parameter] = {}  # what learns, by its name

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images, extra classes among them."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def to_file(self, about: Mapping[str, str], stored: str) -> bytes:
        """Return the weights as a safetensors file; of whole numbers each as it is, of others as asked."""
        own = self.tensors()
        for name in (f"{classifier_name(self.backbone)}.{each}" for each in ("weight", "bias")):
            own[name] = own[name][: self.num_classes]
        dtype = torch.float16 if stored == "fp16" else torch.float32
        kept = {
            name: each.to("cpu", dtype if each.is_floating_point() else each.dtype).contiguous()
            for name, each in own.items()
        }
        return with_metadata(save(kept), dict(about))

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers that are there, under the names that timm gives them."""
        return {name: each.data for name, each in self.named().items()}

    def named(self) -> dict[str, Tensor]:
        """Return the parameters and buffers themselves under the names that timm gives them."""
        own = self.backbone.model.state_dict(keep_vars=True)
        plain = {name: own[now] for name, now in self.backbone.plain_names.items() if now in own}
        where = classifier_name(self.backbone)
        return {**plain, f"{where}.weight": self.head.weight, f"{where}.bias": self.head.bias}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors in, by their names; those that are not given stay."""
        own = self.tensors()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    def let_learn(self, names: Collection[str]) -> None:
        """Let the parameters of these names learn, and no others."""
        named = self.named()
        parameters = {name: each for name, each in named.items() if isinstance(each, nn.Parameter)}
        self.learning = {name: each for name, each in parameters.items() if name in names}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.learning)

    def set_training(self, on: bool) -> None:
        """Let it compute as in training, or as at test time.

        A batch norm that does not learn always normalises by what it knows: in training it would change that.
        """
        self.backbone.set_training(on)
        for _, module in self.backbone.own_modules():
            if isinstance(module, _BatchNorm) and module.weight is not None:
                module.training = on and module.weight.requires_grad

    def groups(self, weight_decay: float, *, decays_all: bool = False) -> list[dict[str, object]]:
        """Return the optimiser's groups: matrices and filters decay; vectors, positions and tokens do not.

        Positions and tokens do, too, where all is to decay that has more than one dimension.
        """
        spared = () if decays_all else UNDECAYED
        decays = [name for name, each in self.learning.items() if each.ndim > 1 and not name.endswith(spared)]
        others = [name for name in self.learning if name not in decays]
        return [
            {"params": [self.learning[name] for name in names], "weight_decay": decay}
            for names, decay in ((decays, weight_decay), (others, 0.0))
            if names
        ]

    @torch.no_grad()
    def accuracy(self, batcher: Batcher, samples: Samples) -> float:
        """Return the share in [0, 1] of the samples that it classifies right."""
        self.set_training(False)
        hits = 0
        for places in in_order(len(samples), BATCH):
            logits = self(batcher.test_batch(samples.rows[places]))
            hits += int(
                (logits[:, : self.num_classes].argmax(dim=1).cpu().numpy() == samples.labels[places]).sum()
            )
        return hits / len(samples)


def classifier_name(backbone: Backbone) -> str:
    """Return what timm calls the layer that the classifier is in, such as ``head`` or ``fc``."""
    layer = backbone.classifier[0]
    named: dict[nn.Module, str] = {each: name for name, each in backbone.model.named_modules()}
    return named[layer]
