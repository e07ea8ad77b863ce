"""Make a module of asking a strategy: normalised pixels in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.inputs import Inputs
from clbench.errors import UserError
from clbench.strategies import Strategy


class UnstoredError(UserError, TypeError):
    """Stored pixels that a strategy wants to see where there are normalised ones only."""


@dataclass(eq=False, kw_only=True)
class Normalised(Inputs):
    """Images to predict that are normalised already."""

    given: Tensor  # (B, 3, S, S)

    def __len__(self) -> int:
        """Return the number of images, B."""
        return len(self.given)

    @property
    def stored(self) -> Tensor:
        """Refuse: what was stored is not known here."""
        raise UnstoredError("it looks at pictures as they are stored, not as its backbone sees them")

    @property
    def images(self) -> Tensor:
        """The images as the backbone wants them."""
        return self.given


class Asked(nn.Module):
    """A strategy as a module: images (B, 3, S, S), normalised, to scores (B, C)."""

    def __init__(
        self,
        strategy: Strategy,
        backbone: Backbone,
        *,
        stored_size: tuple[int, int],
        task: int | None,
        is_half: bool,
        restricted: Callable[[Tensor], Tensor],
    ) -> None:
        """Hold backbone and parts as children.

        Args:
            strategy: Who is asked.
            backbone: Its backbone.
            stored_size: Height and width of the pictures in a memory that it may predict by.
            task: The task that it is told.
            is_half: Whether it computes in bfloat16 where autocast does.
            restricted: What makes the scores to return of those that it gives.
        """
        super().__init__()
        self.strategy = strategy
        self.backbone = backbone
        self.parts = nn.Module()  # not a ModuleDict, in which nothing may be called keys
        for kind, part in strategy.parts().items():
            self.parts.add_module(_key(kind), part)
        self.task, self.is_half, self.restricted = task, is_half, restricted
        no_picture = np.zeros((0, *stored_size, 3), np.uint8)
        self.batcher = Batcher(no_picture, backbone.preprocessing, "none", backbone.device)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the strategy says of the images."""
        inputs = Normalised(batcher=self.batcher, rows=np.zeros(0, np.int64), task=self.task, given=images)
        if not self.is_half:
            with DirectDistances():
                return self.restricted(self.strategy.predict(inputs).float())
        with DirectDistances(), torch.autocast(images.device.type, torch.bfloat16):
            return self.restricted(self.strategy.predict(inputs).float())


class DirectDistances(TorchFunctionMode):
    """Compute distances as they are defined: torch's way depends on the number of images."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, or what stands for it."""
        named = kwargs or {}
        if func is torch.cdist and named.get("p", 2.0) == 2:  # torch names all but the two tensors
            one, other = args
            return (one.unsqueeze(-2) - other.unsqueeze(-3)).square().sum(-1).sqrt()
        return func(*args, **named)


def _key(kind: str) -> str:
    """Return the name of a part as a child: it must hold no dot."""
    return kind.replace(".", "_").replace(" ", "_")
