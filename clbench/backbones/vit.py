"""Open timm's Vision Transformer: the same weights and the same arithmetic, with named sites.

With nothing attached the opened network equals timm's bit for bit, fused attention included. A branch at
``attn.logits`` or ``attn.probs`` makes its block compute the attention matrix explicitly.

Shape letters: B batch, N tokens, D width, H heads, E width of a head, M keys (N, or more with a prefix).
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from clbench.backbones.opening import Opened, opened
from clbench.backbones.sites import BlockSites, Site


class OpenAttention(nn.Module):
    """timm's self-attention with sites at its linear layers, keys, values, logits and probabilities."""

    def __init__(self, attention: Attention, name: str) -> None:
        """Share every weight of ``attention``."""
        super().__init__()
        width = attention.attn_dim
        self.num_heads, self.head_dim, self.scale = attention.num_heads, attention.head_dim, attention.scale
        self.fused = attention.fused_attn
        self.qkv = Site(f"{name}.qkv", attention.qkv, 3 * width)
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.gate, self.attn_drop, self.proj_drop = attention.gate, attention.attn_drop, attention.proj_drop
        self.keys = Site(f"{name}.keys", None, width)  # (B, H, M, E)
        self.values = Site(f"{name}.values", None, width)  # (B, H, M, E)
        self.logits = Site(f"{name}.logits", None, 0)  # (B, H, N, M)
        self.probs = Site(f"{name}.probs", None, 0)  # (B, H, N, M)
        self.proj = Site(f"{name}.proj", attention.proj, attention.proj.out_features)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend among the tokens x (B, N, D)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        k, v = self.keys(k), self.values(v)
        if self.fused and not (self.logits.is_active or self.probs.is_active):
            dropout = self.attn_drop.p if self.training else 0.0
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal
            )
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1)
            if attn_mask is not None:
                logits = logits + attn_mask
            probs = self.probs(self.logits(logits).softmax(dim=-1))
            out = self.attn_drop(probs) @ v
        out = self.norm(out.transpose(1, 2).reshape(batch, tokens, -1))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        out = self.proj_drop(self.proj(out))
        return out

    def sites(self) -> dict[str, Site]:
        """Return the sites by their short names."""
        names = ("qkv", "keys", "values", "logits", "probs", "proj")
        return {f"attn.{name}": getattr(self, name) for name in names}


class OpenBlock(nn.Module):
    """timm's pre-norm block with sites at its input, its two sub-layers and the place between them."""

    def __init__(self, block: Block, name: str) -> None:
        """Share every weight of ``block``."""
        super().__init__()
        width = block.norm1.normalized_shape[0]
        self.input = Site(f"{name}.input", None, width)
        self.norm1, self.ls1, self.drop_path1 = block.norm1, block.ls1, block.drop_path1
        plain = type(block.attn) is Attention
        self.attn = Site(
            f"{name}.attn", OpenAttention(block.attn, f"{name}.attn") if plain else block.attn, width
        )
        self.between = Site(f"{name}.between", None, width)
        self.norm2, self.ls2, self.drop_path2 = block.norm2, block.ls2, block.drop_path2
        self.mlp_sites = open_mlp(block.mlp, f"{name}.mlp") if type(block.mlp) is Mlp else {}
        self.mlp = Site(f"{name}.mlp", block.mlp, width)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Transform the tokens x (B, N, D)."""
        x = self.input(x)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
        x = self.between(x)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def sites(self) -> dict[str, Site]:
        """Return the sites by their short names."""
        inner = self.attn.layer.sites() if isinstance(self.attn.layer, OpenAttention) else {}
        outer = {"input": self.input, "attn": self.attn, "between": self.between, "mlp": self.mlp}
        return {**outer, **inner, **self.mlp_sites}


def open_mlp(mlp: Mlp, name: str) -> dict[str, Site]:
    """Put sites into timm's two-layer MLP, in place, and return them by their short names."""
    mlp.fc1 = Site(f"{name}.fc1", mlp.fc1, mlp.fc1.out_features)
    mlp.act = Site(f"{name}.act", mlp.act, mlp.fc1.width)
    mlp.fc2 = Site(f"{name}.fc2", mlp.fc2, mlp.fc2.out_features)
    return {"mlp.fc1": mlp.fc1, "mlp.act": mlp.act, "mlp.fc2": mlp.fc2}


@opened.register
def open_vit(model: VisionTransformer) -> Opened:
    """Open every plain pre-norm block; blocks of another kind get the sites "" and no inner ones."""
    width = model.embed_dim
    model.norm_pre = Site("embed", model.norm_pre, width)
    model.head = Site("pooled", None, model.num_features)
    blocks = []
    for index, block in enumerate(model.blocks):
        name = f"block[{index}]"
        layer = OpenBlock(block, name) if type(block) is Block else block
        inner = layer.sites() if isinstance(layer, OpenBlock) else {}
        model.blocks[index] = Site(name, layer, width)
        heads = block.attn.num_heads
        blocks.append(BlockSites(index, width, heads, {"": model.blocks[index], **inner}))
    sites = {"embed": model.norm_pre, "pooled": model.head}
    return Opened(blocks=blocks, sites=sites, grid=tuple(model.patch_embed.grid_size))
