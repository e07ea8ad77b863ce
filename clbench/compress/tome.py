"""Merge the tokens that are most alike, a few in every block.

D. Bolya, C.-Y. Fu, X. Dai, P. Zhang, C. Feichtenhofer, J. Hoffman, "Token Merging: Your ViT But Faster"
(ToMe), ICLR 2023, arXiv 2210.09461. Between attention and MLP of each block r tokens are merged into those
whose keys, averaged over the heads, are most like theirs (``parts/matching.py``); a merged token is the mean
of what it stands for. The attention of the blocks behind counts it as often as it stands for tokens,
softmax(q k / sqrt(d) + log size); that is a bias, and the attention stays fused.

ToCom (S. Jie et al., ECCV 2024, arXiv 2408.06798) repairs a backbone that runs at another degree than it was
tuned at: ``plugin`` names the file of a plug-in that ``clbench pretrain tocom`` has learnt for the backbone,
``learnt_at`` the degree at which the learner learnt; the way to ``removed`` is folded into the weights.

Differs from the paper, our choice: register tokens are protected, like a class token; without a class token
the features are the means of the tokens by size, as they are means of patches without merging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site, TokenStep
from clbench.compress import Compressor, register
from clbench.compress.parts.compensation import HIGHEST, from_plugin
from clbench.compress.parts.matching import match, num_removable
from clbench.compress.parts.passing import Begin, Bound, Carry, Passing
from clbench.compress.parts.places import CompressError, require_tokens
from clbench.compress.parts.schedules import even, listed


@register("tome")
@dataclass(frozen=True)
class ToMe(Compressor):
    """Merges similar tokens; for Vision Transformers, with and without a class token."""

    blocks: str = ""  # tokens that each block removes, as in 16/14/13; instead of removed and inflection
    removed: Annotated[int, Field(ge=0)] = 8  # tokens a block, r; half of the patches at most are merged
    inflection: Annotated[float, Field(ge=-1, le=1)] = 0.0  # -1: first 2 r, at last none; 1: the reverse
    proportional: bool = True  # count a token as often as it stands for others; off for MAE's weights
    plugin: str = ""  # the file of a ToCom plug-in
    learnt_at: Annotated[int, Field(ge=0)] = 0  # removed, when the learner learnt; with a plugin
    plugin_scale: Annotated[float, Field(ge=0)] = 0.1  # s, of the plug-in; 0.05 to 0.15 in the paper

    def __post_init__(self) -> None:
        """Refuse degrees that a plug-in has no steps for."""
        if self.plugin and (self.blocks or self.inflection):
            raise ValueError("plugin: it knows constant degrees alone; leave out blocks and inflection")
        for name in ("removed", "learnt_at"):
            if self.plugin and getattr(self, name) > HIGHEST:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is not allowed: a plug-in knows 0 to {HIGHEST}"
                )

    def numbers(self, depth: int) -> list[int]:
        """Return how many tokens each block is to remove."""
        return listed(self.blocks, depth) if self.blocks else even(self.removed, self.inflection, depth)

    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        """Look at the keys and merge behind the attention; from then on bias every attention."""
        model = require_tokens(backbone, "tome")
        if model.global_pool not in ("token", "avg"):
            raise CompressError(
                f"tome: {backbone.name} pools its tokens by {model.global_pool!r}, which merging would"
                " change; use one that reads the class token or averages the patches"
            )
        numbers = self.numbers(len(backbone.blocks))
        if not any(numbers):
            return
        yield backbone.site("embed"), Begin(passing)
        for place, (block, number) in enumerate(zip(backbone.blocks, numbers, strict=True)):
            if self.proportional and any(numbers[:place]):
                yield block["attn.bias"], BySize(passing)
            if number:
                yield block["attn.keys"], Metric(passing)
                yield block["between"], Merge(passing, number, block.num_prefix)
                yield block[""], Carry(passing)
        if model.global_pool == "avg":
            norm = backbone.site("norm")
            is_pooled_behind = model.norm is norm
            tokens = norm if is_pooled_behind else backbone.blocks[-1][""]
            num_left_out = 0 if model.pool_include_prefix else backbone.blocks[-1].num_prefix
            yield tokens, MeanBySize(passing, num_left_out)
        yield backbone.pooled, Begin(passing)

    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        """Return the number of tokens behind each block."""
        counts = []
        for number in self.numbers(depth):
            num_tokens -= min(number, num_removable(num_tokens, num_prefix))
            counts.append(num_tokens)
        return counts

    def degrees(self, depth: int) -> list[Compressor]:
        """Return the degrees of the ToCom paper, 0 to 16; of a list of its own there is one."""
        return [self] if self.blocks else [replace(self, removed=removed) for removed in (0, 4, 8, 12, 16)]

    @property
    def tuned_at(self) -> int:
        """The degree that it runs at; where a plug-in leads to that, the degree that it leads from."""
        return self.learnt_at if self.plugin else self.removed

    def misfit_with(self, learnt: Compressor | None) -> str:
        """Expect ``learnt_at`` to be the degree that the learner learns at."""
        at = learnt.tuned_at if learnt else 0
        if not self.plugin or self.learnt_at == at:
            return ""
        return f"learnt_at={self.learnt_at}, and what it repairs is learnt at {at}: write learnt_at={at}"

    @property
    def plugin_file(self) -> str:
        """The file of a ToCom plug-in."""
        return self.plugin

    def repairs(self, backbone: Backbone, plugin: bytes, source: str) -> Iterator[tuple[Site, Branch]]:
        """Yield the plug-in's step from ``learnt_at`` to ``removed``, for the qkv layer of each block."""
        yield from from_plugin(
            backbone, plugin, source, pair=(self.learnt_at, self.removed), scale=self.plugin_scale
        )


class Metric(Bound):
    """Leaves the keys' mean over the heads for the step behind the attention."""

    def forward(self, output: Tensor) -> Tensor:
        """Return the keys (B, H, M, E) as they are."""
        self.passing.seen = output.detach().mean(dim=1)
        return output


class BySize(Bound):
    """Adds log size to the logits of a token that stands for several; what a prefix brought has size 1."""

    def forward(self, output: Tensor) -> Tensor:
        """Return the bias (B, 1, 1, M); the tokens are the last N of M keys."""
        sizes = self.passing.sizes
        if sizes is None:
            return output
        bias = sizes.log().to(output.dtype)[:, None, None, :, 0]
        num_in_front = output.shape[-1] - bias.shape[-1]
        return output + (F.pad(bias, (num_in_front, 0)) if num_in_front else bias)


class Merge(Bound):
    """Merges ``removed`` tokens into others."""

    def __init__(self, passing: Passing, removed: int, num_prefix: int) -> None:
        """Spare the ``num_prefix`` tokens in front."""
        super().__init__(passing)
        self.removed, self.num_prefix = removed, num_prefix

    def forward(self, output: Tensor) -> Tensor:
        """Return fewer tokens than (B, N, D)."""
        passing = self.passing
        metric, passing.seen = passing.seen, None
        assert metric is not None
        matching = match(metric[:, -output.shape[1] :], self.removed, self.num_prefix)
        if matching is None:
            return output
        sizes = passing.sizes
        if sizes is None:
            dtype = torch.promote_types(output.dtype, torch.float32)
            sizes = torch.ones(*output.shape[:2], 1, dtype=dtype, device=output.device)
        passing.sizes = matching.added(sizes)
        shares = sizes / matching.unmerged(passing.sizes)  # exactly 1 of a token that is alone in its group
        passing.regroup = lambda tokens: matching.merged(tokens, shares)
        return matching.merged(output, shares)


class MeanBySize(Bound):
    """Weighs tokens so that their plain mean is their mean by size."""

    def __init__(self, passing: Passing, num_prefix: int) -> None:
        """Leave the ``num_prefix`` tokens in front as they are."""
        super().__init__(passing)
        self.num_prefix = num_prefix

    def forward(self, output: Tensor) -> Tensor:
        """Return (B, N, D), each token behind them times its size by the mean of their sizes."""
        if self.passing.sizes is None:
            return output
        sizes = self.passing.sizes[:, self.num_prefix :]
        weights = (sizes / sizes.mean(dim=1, keepdim=True)).to(output.dtype)
        return torch.cat((output[:, : self.num_prefix], output[:, self.num_prefix :] * weights), dim=1)
