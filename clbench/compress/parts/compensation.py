"""Repair a backbone for another degree of compression than it was tuned at: ToCom's plug-in.

S. Jie, Y. Tang, J. Guo, Z.-H. Deng, K. Han, Y. Wang, "Token Compensator: Altering Inference Cost of Vision
Transformer without Re-Tuning" (ToCom), ECCV 2024, arXiv 2408.06798. Degrees are whole numbers, tokens removed
a block, from 0 to R = 16. Each block has low-rank pairs A (H, D), B (D, H) for its queries and its values,
H = R rho hidden units, of which rho each belong to one step from a degree to the next:

    delta q = s B_q [(m(b) - m(a)) * (A_q u)],   m(r) = 1 for the last rho r units, else 0

for the way from degree a to b; values likewise, keys stay. So ways add up, and the way back is the way with
the sign changed. B starts at zero. Folded into the weights it costs nothing.

Parameters of a ViT of L blocks of width D: 4 L D H; 1,179,648 for ViT-B/16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site
from clbench.compress.parts.places import CompressError
from clbench.petl.parts.initialise import kaiming_uniform
from clbench.petl.saving import with_metadata

HIGHEST = 16  # R, degrees that there are above 0
RANK = 2  # rho, hidden units a step
SCALE = 0.1  # s while it is learnt
DROPOUT = 0.1  # of the hidden units while it is learnt
FORMAT = "clbench tocom 1"
NAMES = ("query_down", "query_up", "value_down", "value_up")


class Compensation(Branch):
    """The plug-in of one block, beside its fused qkv layer (3 D, D); ``pair`` are the degrees (a, b)."""

    def __init__(self, width: int, rank: int = RANK, scale: float = SCALE) -> None:
        """Allocate pairs of HIGHEST * ``rank`` hidden units; the way from 0 to 0 is none."""
        super().__init__()
        hidden = HIGHEST * rank
        self.query_down, self.value_down = (nn.Parameter(torch.empty(hidden, width)) for _ in range(2))  # A
        self.query_up, self.value_up = (nn.Parameter(torch.zeros(width, hidden)) for _ in range(2))  # B
        self.rank, self.scale = rank, scale
        self.pair = (0, 0)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw A as linear layers are drawn by default."""
        kaiming_uniform(self.query_down, generator)
        kaiming_uniform(self.value_down, generator)

    def way(self) -> Tensor:
        """Return m(b) - m(a), (H,): 1 for steps that are taken, -1 for those that are taken back."""
        start, end = self.pair
        return self._mask(end) - self._mask(start)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add what the way makes of the inputs (B, N, D) to queries and values."""
        way = self.scale * self.way()
        query = F.dropout(F.linear(inputs, self.query_down), DROPOUT, self.training)
        value = F.dropout(F.linear(inputs, self.value_down), DROPOUT, self.training)
        q, k, v = output.chunk(3, dim=-1)
        query, value = F.linear(query * way, self.query_up), F.linear(value * way, self.value_up)
        return torch.cat((q + query, k, v + value), dim=-1)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight with the way's low-rank updates in the rows of q and v, and the bias as it is."""
        way = self.scale * self.way()
        query, value = self.query_up * way @ self.query_down, self.value_up * way @ self.value_down
        return weight + torch.cat((query, torch.zeros_like(query), value)).detach(), bias

    def _mask(self, degree: int) -> Tensor:
        mask = self.query_down.new_zeros(len(self.query_down))
        mask[len(mask) - self.rank * degree :] = 1
        return mask


def new_plugin(backbone: Backbone, rank: int, generator: torch.Generator) -> list[tuple[Site, Compensation]]:
    """Return a plug-in that changes nothing yet, with its sites."""
    made = [(block["attn.qkv"], Compensation(block.width, rank)) for block in backbone.blocks]
    for _, branch in made:
        branch.initialise(generator)
    return made


def to_plugin(branches: Sequence[Compensation], about: Mapping[str, str]) -> bytes:
    """Return a plug-in as a safetensors file, with what is to be said of it in its header."""
    tensors = {
        f"block.{index}.{name}": tensor.detach().cpu().contiguous()
        for index, branch in enumerate(branches)
        for name, tensor in branch.named_parameters()
    }
    return with_metadata(save(tensors), {"format": FORMAT, **about})


def from_plugin(
    backbone: Backbone, data: bytes, source: str, *, pair: tuple[int, int], scale: float
) -> Iterator[tuple[Site, Compensation]]:
    """Yield what a plug-in's file holds, for one way; CompressError in one line where it does not fit."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about, tensors = dict(header["__metadata__"]), load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CompressError(f"plugin: {source} is no ToCom plug-in, or is damaged") from error
    if about.get("format") != FORMAT:
        raise CompressError(f"plugin: {source} is no ToCom plug-in (clbench pretrain tocom makes one)")
    wanted = {f"block.{block.index}.{name}" for block in backbone.blocks for name in NAMES}
    width = tensors["block.0.query_up"].shape[0] if "block.0.query_up" in tensors else 0
    if tensors.keys() != wanted or width != backbone.blocks[0].width:
        depth = len(tensors) // len(NAMES)
        raise CompressError(
            f"plugin: {source} was learnt for {about.get('backbone', 'a ViT')}, of {depth} blocks of width"
            f" {width}; {backbone.name} has {len(backbone.blocks)} of width {backbone.blocks[0].width}"
        )
    for block in backbone.blocks:
        own = {name: tensors[f"block.{block.index}.{name}"] for name in NAMES}
        yield block["attn.qkv"], _filled(block.width, own, source, pair, scale)


def _filled(
    width: int, own: Mapping[str, Tensor], source: str, pair: tuple[int, int], scale: float
) -> Compensation:
    branch = Compensation(width, max(1, len(own["query_down"]) // HIGHEST), scale)
    try:
        branch.load_state_dict(own)
    except RuntimeError as error:
        raise CompressError(f"plugin: the tensors of {source} do not fit each other") from error
    if not all(tensor.isfinite().all() for tensor in own.values()):
        raise CompressError(f"plugin: {source} holds values that are not finite")
    branch.pair = pair
    return branch
