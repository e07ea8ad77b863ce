"""Offer the methods of Hugging Face peft on the linear layers of any backbone, one class a method.

Their mathematics, initial values and merging are peft's (``peft_layers``, ``peft_branch``). A weight W has O
rows, its outputs, and I columns, its inputs; r is the rank. Numbers of parameters without a formula are those
of ViT-B/16 on ``attn.qkv`` (O = 2304, I = 768, 12 blocks), with the defaults if nothing else is said.

Differs from the papers: most adapt language models, and other layers (``sites`` chooses them); what a method
does beside gradient descent, such as AdaLoRA's pruning, is not done. What peft offers and this file does not
is in ``REFUSED``, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.cards import read_rows
from clbench.petl import Petl, register
from clbench.petl.attached import Attached
from clbench.petl.parts.peft_branch import PeftBranch, Place
from clbench.petl.parts.peft_layers import PeftError, peft_layers
from clbench.petl.parts.two_rates import TwoRates
from clbench.registry import did_you_mean
from clbench.seeds import forked
from clbench.tables import make_class

if TYPE_CHECKING:
    from clbench.petl import Loss

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]

WHOLE = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
SLICES = ("attn.q", "attn.k", "attn.v")  # rows of the fused attn.qkv, in timm's order

SEQUENCE = "it lengthens the sequence or the cache of a transformers model; here: vpt-deep, prefix"
REFUSED = {  # what peft's registry lists and this file does not offer
    "ADAPTION_PROMPT": "it is written for the attention of LLaMA",
    "CARTRIDGE": SEQUENCE,
    "CPT": SEQUENCE,
    "FROD": "its frozen factors take as much as the weights, and undo what is merged into these later",
    "LILY": "its router takes a mean over the batch, so that a prediction depends on its batch mates",
    "LN_TUNING": "it trains norms, not linear layers; here: norm-tuning",
    "MULTITASK_PROMPT_TUNING": SEQUENCE,
    "OSF": "it projects gradients in hooks on its parameters, which copies of a module lose",
    "POLY": "its router wants a task's number with every input",
    "PREFIX_TUNING": SEQUENCE,
    "PROMPT_TUNING": SEQUENCE,
    "P_TUNING": SEQUENCE,
    "SHADOW": "it runs a second, smaller transformers model beside the first",
    "TRAINABLE_TOKENS": "it trains rows of a token embedding, which images do not have",
    "XLORA": "it mixes LoRAs of a transformers model that are trained already",
}
REFUSED_FOR_LORA = {  # other values of init_lora_weights
    "corda": "it takes a layer's inputs for a matrix, and needs a package that peft does not declare",
    "eva": "it needs the layers' inputs on data before training starts",
    "loftq": "it starts from the error of a quantised weight, and no weight is quantised",
}


@dataclass(frozen=True)
class PeftMethod(Petl):
    """A method of peft, on the linear layers that ``sites`` names in every block."""

    mergeable: ClassVar[bool] = True
    method: ClassVar[str]  # its name in peft's registry
    keywords: ClassVar[dict[str, str]] = {}  # the options, and what peft calls them
    fixed: ClassVar[dict[str, Any]] = {}  # what else peft is told
    stored: ClassVar[tuple[str, ...]] = ()  # what it computes from the weights and holds frozen
    subtracts_start: ClassVar[bool] = False  # whether the weight loses the factors that it starts from
    in_place: ClassVar[bool] = False  # whether peft adds to the layer's output in place
    recomputes: ClassVar[bool] = False  # whether peft computes the layer anew instead of asking it

    sites: str = "attn.qkv"  # in every block; several with commas; attn.q, attn.k, attn.v are parts of it

    def __post_init__(self) -> None:
        """Check the names of the sites."""
        names = self.sites.split(",")
        for name in names:
            if name not in WHOLE + SLICES:
                near = did_you_mean(name, WHOLE + SLICES)
                raise PeftError(f"sites: {name!r} is none of {', '.join(WHOLE + SLICES)}{near}")
        if len(set(names)) < len(names) or ("attn.qkv" in names and set(names) & set(SLICES)):
            raise PeftError(f"sites: {self.sites!r} names a layer twice; attn.qkv is attn.q, attn.k, attn.v")

    def options(self) -> dict[str, Any]:
        """Return the keywords of peft's own config."""
        return {theirs: getattr(self, ours) for ours, theirs in self.keywords.items()} | self.fixed

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Let peft adapt copies of the layers, and yield each layer that it makes as a branch."""
        places = [_place(block, name) for block in backbone.blocks for name in self.sites.split(",")]
        with forked(int(torch.randint(2**63 - 1, (), generator=generator))):
            layers, shared = peft_layers(self, places)
        for layer, place in zip(layers, places, strict=True):
            yield place.site, PeftBranch(layer, place, shared, self.in_place, self.recomputes)


@dataclass(frozen=True)
class PeftLowRank(TwoRates, PeftMethod):
    """A method of peft that trains both factors of an update B A."""


def _place(block: BlockSites, name: str) -> Place:
    """Return the rows that a name stands for; PeftError where the layer is not linear."""
    site = block["attn.qkv" if name in SLICES else name]
    if not isinstance(site.layer, nn.Linear):
        raise PeftError(f"sites: {site.name} is a {type(site.layer).__name__}; linear layers are adapted")
    if name not in SLICES:
        return Place(site, slice(0, site.width), name)
    num_rows = site.width // len(SLICES)
    first = num_rows * SLICES.index(name)
    return Place(site, slice(first, first + num_rows), name)


@register("peft.lora-ga")
@dataclass(frozen=True)
class LoRAGA(PeftLowRank):
    """LoRA-GA: LoRA that starts from the singular vectors of the gradient of the loss.

    S. Wang, L. Yu, J. Li, NeurIPS 2024, arXiv 2407.05000. A run shows it the first batches of its first task;
    in a loop of your own call ``module.start(loss, batches, generator)`` before training: until then it is
    plain LoRA. 294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha"}
    stored: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")
    subtracts_start: ClassVar[bool] = True
    starts_from_loss: ClassVar[bool] = True
    faster: ClassVar[tuple[str, ...]] = ("lora_B",)

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r
    gamma: Positive = 16  # the vectors of both factors start with the length O^(1/4) / sqrt(gamma)

    def start(
        self, attached: Attached, loss: Loss, batches: Iterable[Any], generator: torch.Generator
    ) -> None:
        """Give the factors their start from the gradient of the loss."""
        from clbench.petl.lora_ga import start_from_gradient

        start_from_gradient(attached, loss, batches, rank=self.rank, gamma=self.gamma, generator=generator)


BASES = {"PeftLowRank": PeftLowRank, "PeftMethod": PeftMethod}  # that a row of the table may name

for _row in read_rows(Path(__file__)):
    _bases = [BASES[name] for name in _row.bases or ["PeftMethod"]]
    _made = make_class(_row, _bases, __name__, frozen=True)
    globals()[_row.title] = register(_row.name, **_row.preset)(_made)  # there pickle looks for it
