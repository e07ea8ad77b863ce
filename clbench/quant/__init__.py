"""Define what a quantiser is: a recipe that makes a backbone compute with few bits a value.

A quantiser file holds a dataclass of options with one method, ``quantise``, that puts low-bit layers in the
place of a backbone's linear layers and convolutions, and roundings where the operands of its attention come
out. Everything else (switch, count, save, load) is the same for all and done by ``Quantised``.

Some store weights only, and need no images; others also round what is multiplied with them, and look at
calibration images to choose how. What is attached to the backbone, modules and heads, stays in float.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from clbench.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clbench.backbones.backbone import Backbone
    from clbench.quant.quantised import Quantised


@dataclass(frozen=True)
class Quantiser(ABC):
    """A quantiser's options, and what it makes of a backbone."""

    roundings: ClassVar[tuple[type, ...]] = ()  # the kinds of Rounding that it may use

    @property
    def num_images(self) -> int:
        """Number of calibration images that it asks for."""
        return 0

    @abstractmethod
    def quantise(self, backbone: Backbone, images: Tensor, generator: torch.Generator) -> Quantised:
        """Return the backbone's low-bit form, switched on.

        ``images`` (n, 3, S, S) are normalised as the backbone expects them; n is 0 where none were asked for.
        What is random is drawn from ``generator``.
        """


registry: Registry[Quantiser] = Registry("quant", __name__, Quantiser)
register, get, names = registry.register, registry.get, registry.names

__all__ = ["Quantiser", "get", "names", "register"]
