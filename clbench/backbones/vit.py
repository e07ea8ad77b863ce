"""Open timm's Vision Transformer: the same weights and the same arithmetic, with named sites.

With nothing attached the opened network equals timm's bit for bit, fused attention included. A branch at
``attn.logits`` or ``attn.probs`` makes its block compute the attention matrix explicitly; what ``attn.bias``
gives is added to all queries' logits, and leaves it fused.

The sub-layers of a block are sites at two depths: ``attn.residual`` from the residual stream to what is added
to it, and inside that ``attn`` from the normalised tokens to the same (LayerScale and DropPath included, so
that a branch beside ``attn`` is not scaled by them). ``mlp.residual`` and ``mlp`` likewise.

Shape letters: B batch, N tokens, D width, H heads, E width of a head, M keys (N, or more with a prefix).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from clbench.backbones.opening import Opened, check_patches, opened, resize
from clbench.backbones.sites import BlockSites, Site


class OpenAttention(nn.Module):
    """timm's self-attention with sites at its linear layers, operands, logits and probabilities."""

    def __init__(self, attention: Attention, name: str) -> None:
        """Share every weight of ``attention``."""
        super().__init__()
        width = attention.num_heads * attention.head_dim
        self.num_heads, self.head_dim, self.scale = attention.num_heads, attention.head_dim, attention.scale
        self.fused = attention.fused_attn
        self.qkv = Site(f"{name}.qkv", attention.qkv, 3 * width)
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.gate, self.attn_drop, self.proj_drop = attention.gate, attention.attn_drop, attention.proj_drop
        self.queries = Site(f"{name}.queries", None, width)  # (B, H, N, E), before they are scaled
        self.keys = Site(f"{name}.keys", None, width)  # (B, H, M, E)
        self.values = Site(f"{name}.values", None, width)  # (B, H, M, E)
        self.bias = Site(f"{name}.bias", None, 0)  # (B, 1, 1, M), zeros
        self.logits = Site(f"{name}.logits", None, 0)  # (B, H, N, M)
        self.probs = Site(f"{name}.probs", None, 0)  # (B, H, N, M)
        self.proj = Site(f"{name}.proj", attention.proj, attention.proj.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the tokens x (B, N, D)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = self.queries(q), self.keys(k), self.values(v)
        bias = self.bias(q.new_zeros(batch, 1, 1, k.shape[2])) if self.bias.is_active else None
        if self.fused and not (self.logits.is_active or self.probs.is_active):
            dropout = self.attn_drop.p if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        else:
            logits = self.logits((q * self.scale) @ k.transpose(-2, -1))
            logits = logits if bias is None else logits + bias
            out = self.attn_drop(self.probs(logits.softmax(dim=-1))) @ v
        out = self.norm(out.transpose(1, 2).reshape(batch, tokens, -1))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        projected: Tensor = self.proj_drop(self.proj(out))
        return projected


class OpenBlock(nn.Module):
    """timm's pre-norm block with sites at its input, its two sub-layers and the place between them."""

    def __init__(self, block: Block, name: str, width: int) -> None:
        """Share every weight of ``block``."""
        super().__init__()
        plain = type(block.attn) is Attention
        attention = OpenAttention(block.attn, f"{name}.attn") if plain else block.attn
        in_mlp = open_mlp(block.mlp, f"{name}.mlp") if type(block.mlp) is Mlp else {}
        norm1, norm2 = Site(f"{name}.norm1", block.norm1, width), Site(f"{name}.norm2", block.norm2, width)
        attn = Site(f"{name}.attn", nn.Sequential(attention, block.ls1, block.drop_path1), width)
        mlp = Site(f"{name}.mlp", nn.Sequential(block.mlp, block.ls2, block.drop_path2), width)
        self.input = Site(f"{name}.input", None, width)
        self.attn_residual = Site(f"{name}.attn.residual", nn.Sequential(norm1, attn), width)
        self.between = Site(f"{name}.between", None, width)
        self.mlp_residual = Site(f"{name}.mlp.residual", nn.Sequential(norm2, mlp), width)
        first = {"input": self.input, "norm1": norm1, "attn": attn, "attn.residual": self.attn_residual}
        second = {"between": self.between, "norm2": norm2, "mlp": mlp, "mlp.residual": self.mlp_residual}
        in_attention = attention_sites(attention) if plain else {}
        self.sites = {**first, **in_attention, **second, **in_mlp}  # by their short names

    def forward(self, x: Tensor) -> Tensor:
        """Transform the tokens x (B, N, D)."""
        x = self.input(x)
        x = x + self.attn_residual(x)
        x = self.between(x)
        transformed: Tensor = x + self.mlp_residual(x)
        return transformed


def attention_sites(attention: nn.Module) -> dict[str, Site]:
    """Return the sites inside an opened attention by their short names."""
    return {f"attn.{name}": site for name, site in attention.named_children() if isinstance(site, Site)}


def open_mlp(mlp: nn.Module, name: str, *, channels_first: bool = False) -> dict[str, Site]:
    """Put sites into one of timm's two-layer MLPs, in place, and return them by their short names."""
    sites = {}
    width = 0
    for part in ("fc1", "act", "fc2"):
        layer = mlp.get_submodule(part)
        width = layer.weight.shape[0] if isinstance(layer, (nn.Linear, nn.Conv2d)) else width
        site = Site(f"{name}.{part}", layer, width, channels_first=channels_first)
        setattr(mlp, part, site)
        sites[f"mlp.{part}"] = site
    return sites


@opened.register
def open_vit(model: VisionTransformer) -> Opened:
    """Open every plain pre-norm block; a block of another kind gets the site "" and no inner ones."""
    width, grid = model.embed_dim, tuple(model.patch_embed.grid_size)
    patches = model.patch_embed.proj = Site("patches", model.patch_embed.proj, width, channels_first=True)
    embed = model.norm_pre = Site("embed", model.norm_pre, width)
    final = "fc_norm" if isinstance(model.norm, nn.Identity) else "norm"
    norm = Site("norm", model.get_submodule(final), width)
    setattr(model, final, norm)
    blocks = []
    for index, block in enumerate(model.blocks):
        name = f"block[{index}]"
        if type(block) is Block:
            heads = block.attn.num_heads
            block = OpenBlock(block, name, width)
            inner = block.sites
        else:
            heads, inner = 0, {}
        model.blocks[index] = Site(name, block, width)
        sites = {"": model.blocks[index], **inner}
        blocks.append(BlockSites(index, width, heads, sites, grid=grid, num_prefix=model.num_prefix_tokens))
    outside = {"patches": patches, "embed": embed, "norm": norm}
    has_stem = any(isinstance(part, nn.BatchNorm2d) for part in model.patch_embed.modules())
    memory_format = torch.channels_last if has_stem else torch.contiguous_format  # for its convolutions
    return Opened(blocks, width=model.head_hidden_size, sites=outside, grid=grid, memory_format=memory_format)


@resize.register
def resize_vit(model: VisionTransformer, image_size: int) -> None:
    """Interpolate the position embedding."""
    check_patches(image_size, model.patch_embed.patch_size[0])
    model.set_input_size(img_size=(image_size, image_size))
