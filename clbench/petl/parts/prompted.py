"""Give each image prompts of its own: tokens beside its patches, or rows in front of its keys and values.

L2P, DualPrompt and CODA-Prompt choose an image's prompts by what the backbone makes of it without any, so the
prompts come from outside, one batch at a time. Switched off, as they are between two batches, the branches
leave the backbone what it was.

Shape letters: B batch, N tokens, K prompts of an image, D width, L rows of a prefix, H heads, E width of a
head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, NoSuchSiteError, Site
from clbench.petl import Petl
from clbench.petl.attached import Attached
from clbench.petl.parts.prompts import TOKENS


class Given:
    """The prompts of the images that are being computed, one tensor for each place that gets some."""

    def __init__(self) -> None:
        """Start with none."""
        self.prompts: Sequence[Tensor] = ()

    @contextmanager
    def shown(self, module: Attached, prompts: Sequence[Tensor]) -> Iterator[None]:
        """Let ``module``, switched off before and after, put these prompts in for a while."""
        self.prompts = prompts
        module.enabled = True
        try:
            yield
        finally:
            module.enabled = False
            self.prompts = ()


class TokensInserted(Branch):
    """Prompts (B, K, D), given as the only place's, after the class token."""

    needs_all_tokens: ClassVar[bool] = True
    is_pure: ClassVar[bool] = False
    unmergeable = TOKENS

    def __init__(self, given: Given, num_prefix: int) -> None:
        """Insert what is ``given`` after the ``num_prefix`` class and register tokens."""
        super().__init__()
        self.given, self.num_prefix = given, num_prefix

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the tokens (B, N + K, D)."""
        (prompts_BKD,) = self.given.prompts
        head, patches = output[:, : self.num_prefix], output[:, self.num_prefix :]
        return torch.cat((head, prompts_BKD.to(output.dtype), patches), dim=1)


class TokensAveraged(Branch):
    """What became of the prompts, averaged, in the place of all tokens."""

    needs_all_tokens: ClassVar[bool] = True
    unmergeable = TOKENS

    def __init__(self, length: int, num_prefix: int) -> None:
        """Average ``length`` tokens after the first ``num_prefix``."""
        super().__init__()
        self.length, self.num_prefix = length, num_prefix

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the mean where the class token and one patch would be, so that any pooling gives it."""
        prompts = output[:, self.num_prefix : self.num_prefix + self.length]
        return prompts.mean(dim=1, keepdim=True).expand(-1, self.num_prefix + 1, -1)


class PrefixInserted(Branch):
    """Rows (B, L, D), given for one block, in front of its keys or its values (B, H, N, E)."""

    is_pure: ClassVar[bool] = False
    unmergeable = "a prefix is no part of a weight"

    def __init__(self, given: Given, place: int, part: int) -> None:
        """Take the rows for keys (``part`` 0) or values (1) of what is given (B, 2, L, D) at ``place``."""
        super().__init__()
        self.given, self.place, self.part = given, place, part

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Split the rows among the heads and prepend them: (B, H, L + N, E)."""
        batch, heads, _, width = output.shape
        rows_BLD = self.given.prompts[self.place][:, self.part]
        rows_BHLE = rows_BLD.reshape(batch, -1, heads, width).transpose(1, 2)
        return torch.cat((rows_BHLE.to(output.dtype), output), dim=2)


@dataclass(frozen=True)
class GivenTokens(Petl):
    """Prompts among the tokens of all blocks; the features are the mean of what becomes of them."""

    identity_at_start: ClassVar[bool] = False

    length: int  # prompts an image, K
    given: Given = field(default_factory=Given, repr=False)

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Insert before the first block; average after the last norm, or block where pooling comes first."""
        require_tokens(backbone)
        last, norm = backbone.blocks[-1], backbone.site("norm")
        yield backbone.site("embed"), TokensInserted(self.given, last.num_prefix)
        sees_tokens = backbone.model.norm is norm
        yield norm if sees_tokens else last[""], TokensAveraged(self.length, last.num_prefix)


@dataclass(frozen=True)
class GivenPrefixes(Petl):
    """A prefix for each of the first blocks."""

    identity_at_start: ClassVar[bool] = False

    num_blocks: int  # the first so many get one
    given: Given = field(default_factory=Given, repr=False)

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Insert before the keys and before the values."""
        require_tokens(backbone)
        for place, block in enumerate(backbone.blocks[: self.num_blocks]):
            yield block["attn.keys"], PrefixInserted(self.given, place, 0)
            yield block["attn.values"], PrefixInserted(self.given, place, 1)


def require_tokens(backbone: Backbone) -> None:
    """Raise NoSuchSiteError where blocks do not see an image's tokens as one sequence."""
    if any(block.grid is None for block in backbone.blocks):
        raise NoSuchSiteError(
            f"prompts need blocks that see a sequence of tokens, which those of {backbone.name} do not;"
            " use a Vision Transformer such as vit-micro"
        )
