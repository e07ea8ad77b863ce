"""Change every weight block by block: multiply its r x r blocks by one small matrix each, and add that too.

J. Kang, "Bone: Block Affine Transformation for Parameter-Efficient Fine-Tuning" (later renamed MiSS), 2024,
arXiv 2409.15371. A weight (O, I) is cut into blocks W[a, b] of r rows and r columns, and a B[a, b] for each
is trained, zero at the start:

    W[a, b] <- W[a, b] + W[a, b] B[a, b] + B[a, b]

``col``: the blocks of a row of blocks share one B (the published Bone; "bat" in Hugging Face peft). ``row``:
those of a column do. ``free``: B is repeated over the weight in a rectangle of blocks. Modules attached one
after another each work on the weight that the one before has made, so they do not add up.

The later forms only add, D being trained: ``miss`` W[o, i] <- W[o, i] + D[i mod r, o], whose update has rank
r, and ``miss-mini``, which also repeats a D of m columns along o.

Differs from the paper: the rectangle of ``free``, which has to tile the weight, is our choice, as the paper
only pictures one. Merging keeps the old weight, so the inverse (W - B)(I + B)^-1 is not needed and not here.

Parameters a layer: O r (col, miss), I r (row), r m (miss-mini), r^2 times the blocks of the rectangle (free).
In a ViT of L blocks of width D: 9 L D r (col, miss), 7 L D r (row); 1,327,104 for ViT-B/16 with the defaults.

Shape letters: O outputs, I inputs, A = O/r and B = I/r blocks down and across, R rows or columns of a block,
G and H different blocks down and across, P = A/G and Q = B/H their repeats, M columns of D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, NoSuchSiteError, Site
from clbench.petl import Petl, register
from clbench.petl.parts.divisors import check_divides

LAYERS = {
    "all": ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
    "attn": ("attn.qkv", "attn.proj"),
    "mlp": ("mlp.fc1", "mlp.fc2"),
}


class BlockAffine(Branch):
    """``W + W B + B``, block by block; B is repeated over the weight's blocks."""

    reweights: ClassVar[bool] = True

    def __init__(self, down: int, across: int, rank: int) -> None:
        """Repeat a rectangle of ``down`` x ``across`` different blocks."""
        super().__init__()
        self.blocks = nn.Parameter(torch.zeros(down, across, rank, rank))  # GHRR

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the changed weight, and the bias as it is."""
        down, across, rank, _ = self.blocks.shape
        repeats = weight.shape[1] // (across * rank)
        cut = weight.reshape(-1, down, rank, repeats, across, rank)  # PGRQHR
        update = torch.einsum("pgiqhk,ghkj->pgiqhj", cut, self.blocks)
        update = update + self.blocks.transpose(1, 2)[:, :, None]  # GRHR -> GR1HR
        return weight + update.reshape(weight.shape), bias


class SharedShard(Branch):
    """``W[o, i] + D[i mod r, o mod m]``, without forming that matrix unless it is merged."""

    def __init__(self, rank: int, columns: int) -> None:
        """Repeat a shard D of ``rank`` rows and ``columns`` columns."""
        super().__init__()
        self.shard = nn.Parameter(torch.zeros(rank, columns))  # RM

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Fold the inputs (..., I) into r channels, and add what D makes of them, m channels at a time."""
        rank, columns = self.shard.shape
        whole = F.pad(inputs, (0, -inputs.shape[-1] % rank))  # (..., a multiple of r)
        folded = whole.reshape(*inputs.shape[:-1], -1, rank).sum(-2)
        added = (folded @ self.shard).unsqueeze(-2)
        return (output.reshape(*output.shape[:-1], -1, columns) + added).reshape(output.shape)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the changed weight, and the bias as it is."""
        (outputs, inputs), (rank, columns) = weight.shape, self.shard.shape
        repeated = self.shard.T.repeat(outputs // columns, math.ceil(inputs / rank))
        return weight + repeated[:, :inputs], bias


@register("bone")
@dataclass(frozen=True)
class Bone(Petl):
    """Identity at the start, mergeable; on the linear layers of attention and MLP."""

    mergeable: ClassVar[bool] = True
    # Ours, for a ViT: the paper's 2e-5 is meant for language models of 7 billion parameters.
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0}

    form: Literal["col", "row", "free", "miss", "miss-mini"] = "col"  # what shares a block, or only adds
    rank: Annotated[int, Field(ge=1)] = 16  # rows and columns of a block, r; 64 in the paper
    sites: Literal["all", "attn", "mlp"] = "all"  # which linear layers are changed
    blocks_down: Annotated[int, Field(ge=1)] = 2  # of the rectangle of form free
    blocks_across: Annotated[int, Field(ge=1)] = 2  # of the rectangle of form free
    columns: Annotated[int, Field(ge=1)] = 32  # of D in form miss-mini, m

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put one branch on every linear layer that was asked for; nothing is drawn."""
        chosen = [block[name] for block in backbone.blocks for name in LAYERS[self.sites] if block.has(name)]
        layers = [(site, site.layer) for site in chosen if isinstance(site.layer, nn.Linear)]
        if not layers:
            wanted = ", ".join(LAYERS[self.sites])
            raise NoSuchSiteError(f"no block of {backbone.name} has one of the linear layers {wanted}")
        for site, layer in layers:
            yield site, FORMS[self.form](self, site.name, layer.out_features, layer.in_features)


def _by_rows_of_blocks(bone: Bone, site: str, outputs: int, inputs: int) -> Branch:
    check_divides("rank", bone.rank, f"the widths of {site}", outputs, inputs)
    return BlockAffine(outputs // bone.rank, 1, bone.rank)


def _by_columns_of_blocks(bone: Bone, site: str, outputs: int, inputs: int) -> Branch:
    check_divides("rank", bone.rank, f"the widths of {site}", outputs, inputs)
    return BlockAffine(1, inputs // bone.rank, bone.rank)


def _by_rectangle(bone: Bone, site: str, outputs: int, inputs: int) -> Branch:
    check_divides("rank", bone.rank, f"the widths of {site}", outputs, inputs)
    check_divides("blocks_down", bone.blocks_down, f"the blocks down {site}", outputs // bone.rank)
    check_divides("blocks_across", bone.blocks_across, f"the blocks across {site}", inputs // bone.rank)
    return BlockAffine(bone.blocks_down, bone.blocks_across, bone.rank)


def _shared(bone: Bone, site: str, outputs: int, inputs: int) -> Branch:
    return SharedShard(bone.rank, outputs)


def _shared_twice(bone: Bone, site: str, outputs: int, inputs: int) -> Branch:
    check_divides("columns", bone.columns, f"the outputs of {site}", outputs)
    return SharedShard(bone.rank, bone.columns)


FORMS: dict[str, Callable[[Bone, str, int, int], Branch]] = {
    "col": _by_rows_of_blocks,
    "row": _by_columns_of_blocks,
    "free": _by_rectangle,
    "miss": _shared,
    "miss-mini": _shared_twice,
}
