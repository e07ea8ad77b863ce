"""Open timm's Swin Transformer: the same weights and the same arithmetic, with named sites.

Z. Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030. The blocks of all stages are numbered through.
``attn`` and ``mlp`` see all tokens of an image (B, rows, columns, D), which ``attn`` shifts and cuts into
windows; the sites inside ``attn`` see windows. ``attn.residual`` and ``mlp.residual`` are as in a ViT. The
features are timm's pre-logits, the mean of all tokens after the final norm. (LAE's
published code leaves the last token out.)

With nothing attached the opened network equals timm's bit for bit. A branch at ``attn.logits`` or
``attn.probs`` makes its block compute the attention matrix explicitly, which timm's Swin does anyway unless
its experimental fused attention is switched on.

Shape letters: B batch times windows, W windows of an image, N tokens of a window, D width, H heads, E width
of a head, M keys (N, or more with a prefix).
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn

from clbench.backbones.opening import Opened, check_patches, opened, resize
from clbench.backbones.sites import BlockSites, Site
from clbench.backbones.vit import attention_sites, open_mlp


class OpenWindowAttention(nn.Module):
    """timm's attention inside windows with sites at linear layers, at its operands, logits and probabilities.

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
        self.queries = Site(f"{name}.queries", None, width)  # (B, H, N, E), before they are scaled
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
        q, k, v = self.queries(q), self.keys(k), self.values(v)
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


class ShiftedWindows(nn.Module):
    """The attention of one of timm's Swin blocks, with the cutting into windows and the shift around it."""

    def __init__(self, block: SwinTransformerBlock, name: str) -> None:
        """Take the block over, its attention opened; what is not attention is left to others."""
        super().__init__()
        block.attn = OpenWindowAttention(block.attn, f"{name}.attn")
        block.norm1 = block.norm2 = block.mlp = block.drop_path1 = block.drop_path2 = nn.Identity()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the tokens x (B, rows, columns, D) of each window."""
        attended: Tensor = self.block._attn(x)
        return attended


class OpenSwinBlock(nn.Module):
    """timm's Swin block with sites at its two sub-layers."""

    def __init__(self, block: SwinTransformerBlock, name: str) -> None:
        """Share every weight of ``block``."""
        super().__init__()
        width, mlp_layer, drop_path1, drop_path2 = block.dim, block.mlp, block.drop_path1, block.drop_path2
        in_mlp = open_mlp(mlp_layer, f"{name}.mlp")
        norm1, norm2 = Site(f"{name}.norm1", block.norm1, width), Site(f"{name}.norm2", block.norm2, width)
        windows = ShiftedWindows(block, name)
        attn = Site(f"{name}.attn", nn.Sequential(windows, drop_path1), width)
        mlp = Site(f"{name}.mlp", nn.Sequential(mlp_layer, drop_path2), width)
        self.attn_residual = Site(f"{name}.attn.residual", nn.Sequential(norm1, attn), width)
        self.mlp_residual = Site(f"{name}.mlp.residual", nn.Sequential(norm2, mlp), width)
        first = {"norm1": norm1, "attn": attn, "attn.residual": self.attn_residual}
        second = {"norm2": norm2, "mlp": mlp, "mlp.residual": self.mlp_residual}
        self.sites = {**first, **attention_sites(windows.block.attn), **second, **in_mlp}

    def forward(self, x: Tensor) -> Tensor:
        """Transform the tokens x (B, rows, columns, D)."""
        x = x + self.attn_residual(x)
        transformed: Tensor = x + self.mlp_residual(x)
        return transformed


@opened.register
def open_swin(model: SwinTransformer) -> Opened:
    """Open every block of every stage."""
    embed = Site("embed", None, model.layers[0].dim)  # (B, rows, columns, D)
    patches = Site("patches", model.patch_embed.proj, model.layers[0].dim, channels_first=True)
    model.patch_embed.proj = patches
    model.patch_embed = nn.Sequential(model.patch_embed, embed)
    norm = model.norm = Site("norm", model.norm, model.head_hidden_size)
    blocks: list[BlockSites] = []
    for stage in model.layers:
        for place, block in enumerate(stage.blocks):
            index = len(blocks)
            name, width, heads = f"block[{index}]", block.dim, block.attn.num_heads
            block = OpenSwinBlock(block, name)
            stage.blocks[place] = Site(name, block, width)
            blocks.append(BlockSites(index, width, heads, {"": stage.blocks[place], **block.sites}))
    grid = tuple(model.layers[-1].output_resolution)
    outside = {"patches": patches, "embed": embed, "norm": norm}
    return Opened(blocks, width=model.head_hidden_size, sites=outside, grid=grid)


@resize.register
def resize_swin(model: SwinTransformer, image_size: int) -> None:
    """Keep the windows, smaller only where a stage has fewer tokens, and interpolate the biases of those."""
    check_patches(image_size, model.patch_embed.patch_size[0])
    window_size = model.layers[0].blocks[0].window_size
    model.set_input_size(img_size=(image_size, image_size), window_size=window_size)
