"""Open timm's Swin Transformer: the same weights and the same arithmetic, with named sites.

Z. Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030. The blocks of all stages are numbered through.
``attn`` is the attention inside windows: its input are the window-partitioned tokens (B times windows, tokens
of a window, D). The features are timm's pre-logits, the mean of all tokens after the final norm. (LAE's
published code leaves the last token out.)

With nothing attached the opened network equals timm's bit for bit. A branch at ``attn.logits`` or
``attn.probs`` makes its block compute the attention matrix explicitly, which timm's Swin does anyway unless
its experimental fused attention is switched on.

Shape letters: B batch times windows, W windows of an image, N tokens of a window, D width, H heads, E width
of a head, M keys (N, or more with a prefix).
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor, nn

from clbench.backbones.opening import Opened, check_patches, opened, resize
from clbench.backbones.sites import BlockSites, Site
from clbench.backbones.vit import attention_sites, open_mlp


class OpenWindowAttention(nn.Module):
    """timm's attention inside windows with sites at linear layers, keys, values, logits and probabilities.

    Keys that a branch puts in front of the tokens' own are in every window, seen without bias and never
    masked.
    """

    relative_position_index: Tensor

    def __init__(self, attention: WindowAttention, name: str) -> None:
        """Share every weight of ``attention``."""
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.fused = attention.fused_attn
        width = attention.proj.in_features
        self.relative_position_bias_table = attention.relative_position_bias_table
        index = attention.relative_position_index
        self.register_buffer("relative_position_index", index, persistent=False)
        self.attn_drop, self.proj_drop = attention.attn_drop, attention.proj_drop
        self.qkv = Site(f"{name}.qkv", attention.qkv, 3 * width)
        self.keys = Site(f"{name}.keys", None, width)  # (B, H, M, E)
        self.values = Site(f"{name}.values", None, width)  # (B, H, M, E)
        self.logits = Site(f"{name}.logits", None, 0)  # (B, H, N, M)
        self.probs = Site(f"{name}.probs", None, 0)  # (B, H, N, M)
        self.proj = Site(f"{name}.proj", attention.proj, attention.proj.out_features)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend among the tokens x (B, N, D) of each window; ``mask`` (W, N, N) is added to the logits."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        k, v = self.keys(k), self.values(v)
        bias = self.bias()
        mask = None if mask is None else mask[:, None]
        if num_extra := k.shape[2] - tokens:  # keys in front of the tokens' own
            bias = F.pad(bias, (num_extra, 0))
            mask = None if mask is None else F.pad(mask, (num_extra, 0))
        if self.fused and not (self.logits.is_active or self.probs.is_active):
            if mask is not None:
                bias = bias + mask.repeat(batch // len(mask), 1, 1, 1)
            dropout = self.attn_drop.p if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1) + bias
            if mask is not None:
                logits = (logits.unflatten(0, (-1, len(mask))) + mask).flatten(0, 1)
            probs = self.probs(self.logits(logits).softmax(dim=-1))
            out = self.attn_drop(probs) @ v
        projected: Tensor = self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, tokens, -1)))
        return projected

    def bias(self) -> Tensor:
        """Return what the logits (1, H, N, N) gain from the tokens' relative positions."""
        index = self.relative_position_index
        bias: Tensor = self.relative_position_bias_table[index.flatten()].view(*index.shape, -1)
        return bias.permute(2, 0, 1).contiguous()[None]


@opened.register
def open_swin(model: SwinTransformer) -> Opened:
    """Open every block of every stage."""
    embed = Site("embed", None, model.layers[0].dim)  # (B, rows, columns, D)
    model.patch_embed = nn.Sequential(model.patch_embed, embed)
    blocks: list[BlockSites] = []
    for stage in model.layers:
        for place, block in enumerate(stage.blocks):
            index = len(blocks)
            name, width, heads = f"block[{index}]", block.dim, block.attn.num_heads
            attention = OpenWindowAttention(block.attn, f"{name}.attn")
            block.attn = Site(f"{name}.attn", attention, width)
            inner = {**attention_sites(attention), **open_mlp(block.mlp, f"{name}.mlp")}
            block.mlp = Site(f"{name}.mlp", block.mlp, width)
            stage.blocks[place] = Site(name, block, width)
            sites = {"": stage.blocks[place], "attn": block.attn, "mlp": block.mlp, **inner}
            blocks.append(BlockSites(index, width, heads, sites))
    grid = tuple(model.layers[-1].output_resolution)
    return Opened(blocks, width=model.head_hidden_size, sites={"embed": embed}, grid=grid)


@resize.register
def resize_swin(model: SwinTransformer, image_size: int) -> None:
    """Keep the windows, smaller only where a stage has fewer tokens, and interpolate the biases of those."""
    check_patches(image_size, model.patch_embed.patch_size[0])
    window_size = model.layers[0].blocks[0].window_size
    model.set_input_size(img_size=(image_size, image_size), window_size=window_size)
