"""Find where a backbone multiplies: its linear layers and convolutions, and the operands of its attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.pixelwise import PixelwiseConv2d
from clbench.backbones.sites import BlockSites, Site

MULTIPLYING = (nn.Linear, nn.Conv2d, PixelwiseConv2d)  # and no other subclass, which may do anything
OPERANDS = ("queries", "keys", "probs", "values")  # of an attention's two products

# Where a layer's input comes from: pixels; a LayerNorm; a GELU; anything else.
Source = Literal["pixels", "norm", "gelu", "other"]


@dataclass(frozen=True)
class Place:
    """A layer that multiplies."""

    path: str  # of the layer in the backbone
    layer: nn.Linear | nn.Conv2d = field(repr=False)
    source: Source = "other"
    site: str = ""  # its full name, where the layer is a site's


@dataclass(frozen=True)
class Stage:
    """What is looked at together: a block of the backbone, or what comes before, between or after them."""

    name: str  # "block[3]", or the path of a layer that is in no block
    places: tuple[Place, ...]
    attention: dict[str, Site] = field(default_factory=dict)  # the sites of the operands, by OPERANDS


def stages(backbone: Backbone) -> list[Stage]:
    """Return all of them in the order in which the backbone names them; a classifier's is not among them."""
    of_layer = {id(site.layer): (block, short) for block in backbone.blocks for short, site in _sites(block)}
    block_of = {id(inside): block for block in backbone.blocks for inside in block[""].modules()}
    left_out = {id(inside) for layer in backbone.classifier for inside in layer.modules()}
    found: dict[str, list[Place]] = {}
    is_first = True
    for path, layer in backbone.own_modules():
        if type(layer) not in MULTIPLYING or id(layer) in left_out:
            continue
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        block, short = of_layer.get(id(layer), (None, ""))
        source = "pixels" if is_first else "other" if block is None else _source(block, short)
        is_first = False
        around = block_of.get(id(layer))
        name = path if around is None else f"block[{around.index}]"
        site = f"block[{block.index}].{short}" if block is not None else ""
        found.setdefault(name, []).append(Place(path, layer, source, site))
    attention = {f"block[{block.index}]": _operands(block) for block in backbone.blocks}
    return [Stage(name, tuple(places), attention.get(name, {})) for name, places in found.items()]


def put(backbone: Backbone, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of another."""
    parent, _, name = path.rpartition(".")
    setattr(backbone.get_submodule(parent), name, layer)


def _sites(block: BlockSites) -> Iterator[tuple[str, Site]]:
    return ((short, site) for short, site in block.sites.items() if site.layer is not None)


def _operands(block: BlockSites) -> dict[str, Site]:
    names = {name: f"attn.{name}" for name in OPERANDS}
    return {name: block[site] for name, site in names.items()} if block.has("attn.probs") else {}


def _source(block: BlockSites, short: str) -> Source:
    """Tell what a layer of a block reads, by what stands before it there."""
    norms = {"attn.qkv": "norm1", "mlp.fc1": "norm2" if block.has("norm2") else "norm"}
    if short in norms and block.has(norms[short]) and isinstance(block[norms[short]].layer, nn.LayerNorm):
        return "norm"
    if short == "mlp.fc2" and _is_gelu(block["mlp.act"].layer) and _nothing_between(block):
        return "gelu"
    return "other"


def _is_gelu(layer: nn.Module | None) -> bool:
    from timm.layers.activations import GELU  # takes seconds, and whoever has a block has it

    return isinstance(layer, (nn.GELU, GELU))  # torch's, and timm's own


def _nothing_between(block: BlockSites) -> bool:
    """Tell whether an MLP has nothing but its two layers and the activation, such as a response norm."""
    mlp = next(part for part in block["mlp"].modules() if block["mlp.fc2"] in part.children())
    return all(isinstance(part, (Site, nn.Dropout, nn.Identity)) for part in mlp.children())
