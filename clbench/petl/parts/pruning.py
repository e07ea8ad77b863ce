"""Cut a narrow block out of a wide one: the rows and columns that weigh most.

Structural pruning by L1 norms, as LST (Y.-L. Sung et al., NeurIPS 2022, arXiv 2206.06522) starts its side
networks. What is kept of a ViT is our choice:

- channels of the residual stream: those with the largest rows of the patch embedding, the same in all blocks;
- channels of a head: those with the largest sum of the rows of W_q, W_k, W_v and the columns of W_o;
- hidden units of the MLP: those with the largest product of the row of W_1 and the column of W_2.

A LayerScale behind a layer is multiplied into what is cut out of it.

Shape letters: D width of the trunk, E of the narrow block, H heads, W width of a head, M hidden units.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, NoSuchSiteError

NEEDED = ("norm1", "attn", "attn.qkv", "attn.proj", "norm2", "mlp", "mlp.fc1", "mlp.fc2")


@torch.no_grad()
def kept_channels(backbone: Backbone, number: int) -> Tensor:
    """Return the channels of the residual stream that are kept, (E,), in their order."""
    embedding = cast("nn.Conv2d", backbone.site("patches").layer).weight
    return _largest(embedding.abs().flatten(1).sum(dim=1), number)


@torch.no_grad()
def pruned_block(narrow: Block, wide: BlockSites, channels: Tensor) -> Block:
    """Give ``narrow`` what is kept of a block of the trunk, and return it."""
    if not all(wide.has(name) for name in NEEDED):
        raise NoSuchSiteError(
            f"petl.init: pruned cuts plain attention and two-layer MLPs, and block[{wide.index}] is another;"
            " use --set petl.init=random"
        )
    heads, width = narrow.attn.num_heads, narrow.attn.head_dim
    qkv, out = _linear(wide, "attn.qkv"), _linear(wide, "attn.proj")
    of_heads = _channels_of_heads(qkv.weight, out.weight, heads, width)  # (H W,) among the trunk's D
    in_qkv = torch.cat([of_heads + part * len(out.weight) for part in range(3)])
    _cut(narrow.attn.qkv, qkv, rows=in_qkv, columns=channels)
    _cut(narrow.attn.proj, out, rows=channels, columns=of_heads, scale=_layer_scale(wide, "attn"))
    first, second = _linear(wide, "mlp.fc1"), _linear(wide, "mlp.fc2")
    weight_M = first.weight.abs().sum(dim=1) * second.weight.abs().sum(dim=0)
    units = _largest(weight_M, narrow.mlp.fc1.out_features)
    _cut(narrow.mlp.fc1, first, rows=units, columns=channels)
    _cut(narrow.mlp.fc2, second, rows=channels, columns=units, scale=_layer_scale(wide, "mlp"))
    for name, norm in (("norm1", narrow.norm1), ("norm2", narrow.norm2)):
        for kind, tensor in cast("nn.Module", wide[name].layer).named_parameters():
            setattr(norm, kind, nn.Parameter(tensor[channels].clone()))
    return narrow


def _channels_of_heads(qkv: Tensor, out: Tensor, heads: int, width: int) -> Tensor:
    """Return the channels (H W,) of all heads' outputs that are kept, ``width`` of each head."""
    weight_D = qkv.abs().sum(dim=1).view(3, -1).sum(dim=0) + out.abs().sum(dim=0)
    weight_HW = weight_D.view(heads, -1)
    starts = torch.arange(heads, device=out.device) * weight_HW.shape[1]
    kept = [_largest(weight_W, width) + start for weight_W, start in zip(weight_HW, starts, strict=True)]
    return torch.cat(kept)


def _cut(
    narrow: nn.Linear, wide: nn.Linear, *, rows: Tensor, columns: Tensor, scale: Tensor | None = None
) -> None:
    """Give a layer some rows and columns of another one, the rows multiplied by ``scale``."""
    factor = wide.weight.new_ones(wide.out_features) if scale is None else scale
    bias = wide.weight.new_zeros(wide.out_features) if wide.bias is None else wide.bias
    narrow.weight = nn.Parameter((wide.weight * factor[:, None])[rows][:, columns].clone())
    narrow.bias = nn.Parameter((bias * factor)[rows].clone())


def _largest(weights: Tensor, number: int) -> Tensor:
    """Return the places of the largest, in their order."""
    return weights.topk(number).indices.sort().values


def _linear(block: BlockSites, name: str) -> nn.Linear:
    return cast("nn.Linear", block[name].layer)


def _layer_scale(block: BlockSites, name: str) -> Tensor | None:
    """Return the factors behind the attention or the MLP, (D,), where there are any."""
    scale = cast("nn.Sequential", block[name].layer)[1]
    return next((parameter.detach() for parameter in scale.parameters()), None)
