"""Estimate how much a backbone's features feel an error in what its products put out.

PTQ4ViT (arXiv 2111.12293) weighs the error of an output by the squared gradient of a task's loss there. A
backbone alone has no loss: it is our choice to take L = r^T f for an image's features f and random signs r.
The squared gradient of L is, on the average over r, the diagonal of J^T J with J = df / d(output): how far
the features move for a small error in one place. Each image has its own signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clbench.backbones.backbone import Backbone
from clbench.quant.parts.observed import CHUNK, explicit_attention
from clbench.quant.parts.places import Stage

LOGITS, MIXED = "logits", "mixed"  # the outputs of an attention's two products


@dataclass(frozen=True)
class Sensitivity:
    """Squared gradients at a stage's outputs, float32, all images behind one another."""

    outputs: dict[str, Tensor] = field(default_factory=dict)  # of each layer by its path, as it put out
    products: dict[str, Tensor] = field(default_factory=dict)  # LOGITS (B, H, N, M), MIXED (B, N, H E)


def sensitivity(backbone: Backbone, stage: Stage, images: Tensor, generator: torch.Generator) -> Sensitivity:
    """Show a backbone the images (n, 3, S, S) and return the squared gradients of a stage's outputs."""
    found: dict[str, list[Tensor]] = {}
    passing: dict[str, Tensor] = {}
    handles = [_at_output(place.layer, passing, place.path) for place in stage.places]
    if stage.attention:
        handles.append(_at_output(backbone.site(f"{stage.name}.attn.{LOGITS}"), passing, LOGITS))
        handles.append(_at_input(backbone.site(f"{stage.name}.attn.proj"), passing, MIXED))
    try:
        with explicit_attention(stage), torch.enable_grad():
            for start in range(0, len(images), CHUNK):
                features = backbone(images[start : start + CHUNK].to(backbone.device))
                signs = torch.randint(0, 2, features.shape, generator=generator).mul_(2).sub_(1)
                loss = (features * signs.to(features)).sum()
                gradients = torch.autograd.grad(loss, list(passing.values()), materialize_grads=True)
                for name, gradient in zip(passing, gradients, strict=True):
                    found.setdefault(name, []).append(gradient.float().square())
                passing.clear()
    finally:
        for handle in handles:
            handle.remove()
    squared = {name: torch.cat(chunks) for name, chunks in found.items()}
    products = {name: squared.pop(name) for name in (LOGITS, MIXED) if name in squared}
    return Sensitivity(squared, products)


def _at_output(module: nn.Module, passing: dict[str, Tensor], name: str) -> RemovableHandle:
    """Let what comes out of a module be kept, with a gradient, and a copy of it pass on."""
    keep = _keeper(passing, name)
    return module.register_forward_hook(lambda _, __, output: keep(output))


def _at_input(module: nn.Module, passing: dict[str, Tensor], name: str) -> RemovableHandle:
    """Let what comes into a module be kept, with a gradient, and a copy of it pass on."""
    keep = _keeper(passing, name)
    return module.register_forward_pre_hook(lambda _, given: (keep(given[0]), *given[1:]))


def _keeper(passing: dict[str, Tensor], name: str) -> Callable[[Tensor], Tensor]:
    def keep(tensor: Tensor) -> Tensor:
        passing[name] = tensor if tensor.requires_grad else tensor.requires_grad_()
        return passing[name].clone()  # what changes it in place does so to the copy

    return keep
