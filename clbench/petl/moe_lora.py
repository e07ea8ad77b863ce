"""Turn each MLP into experts behind a router that fades while LoRA learns (EMTAL's MoEfied LoRA).

H. Zhong, J. Chen, Y. Zhang, D. Huang, Y. Wang, "Transforming Vision Transformer: Towards Efficient Multi-Task
Asynchronous Learner", NeurIPS 2024, arXiv 2501.06884. The neurons of an MLP are clustered by their rows of
fc1's weight W1, scaled to length 1, into K experts of equal size. A token x weighs the experts:

    w = a K softmax(x R / tau) + 1 - a,
    out = W2' gelu(g (W1' x + b1)) + b2,    g_h = w[expert of neuron h],    W' = W + (A B)^T,

where a falls from 1 to 0 during the training of a task; at 0 nothing is left of the router R, and all merges
into a plain ViT. The linear layers of the attention have LoRA of the same rank, without router.

Not the identity at the start: the router acts at once. Parameters of a ViT of L blocks of width D:
16 L D r + L D K; 737,280 for ViT-B/16 with the defaults, 294,912 with rank 1.

The formulas are those of the published code. Its paper has factors for each expert, does not mention LoRA on
the attention, and fades the router towards the end: ``fade=last``. With ``fade=never`` the router stays, as
in the paper's ablation.

Differs from the published code:
- B starts at zero; ``init=official`` draws it as A is drawn, from N(0, 0.02^2).
- Neurons stay in their places and know the number of their expert: the same function as with sorted neurons.
- The router fades within each task: at the next one it acts again, from the R it had.
- Balance is kept by solving a linear assignment problem; 20 iterations at most. (Attaching to a ViT-Ti takes
  seconds, to a ViT-B about half a minute.)
- In a block without attention, as of a ConvNeXt, the MLP alone is adapted, which is our choice.

In a loop of your own, tell the router how far the training is:
``for part in scheduled([module]): part.progress.fill_(step / num_steps)``, in the end 1.

Shape letters: B batch, N tokens, K experts, H neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, Branch, NoSuchSiteError, Site
from clbench.petl import register
from clbench.petl.parts.balanced_kmeans import balanced_kmeans
from clbench.petl.parts.divisors import check_divides
from clbench.petl.parts.two_rates import TwoRates
from clbench.petl.scheduled import Scheduled

STD = 0.02  # of the values drawn for A and R, and for B where it is drawn
FADES = {  # first and last progress
    "first_half": (0, 1 / 2),  # 55 of 110 epochs
    "last": (6 / 11, 1),  # the last 50 of them
    "never": (1, 2),  # progress ends at 1
}


class LowRank(Branch):
    """``W x + b + (A B)^T x``."""

    def __init__(self, site: Site, rank: int, *, zero: bool, generator: torch.Generator) -> None:
        """Draw A (inputs, rank) and B (rank, outputs), or let B be zero."""
        super().__init__()
        inputs = cast("nn.Linear", site.layer).in_features
        self.down = nn.Parameter(torch.empty(inputs, rank).normal_(0, STD, generator=generator))
        up = torch.empty(rank, site.width)
        self.up = nn.Parameter(up.zero_() if zero else up.normal_(0, STD, generator=generator))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the update's view of the input."""
        return output + inputs @ self.down @ self.up

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return W + (A B)^T, and the bias as it is."""
        return weight + (self.down @ self.up).T, bias


class Fade(Scheduled):
    """a, from 1 down to 0 between two points of a task's training; the routers of all blocks share it."""

    def __init__(self, start: float, end: float) -> None:
        """Fall linearly between these values of ``progress``."""
        super().__init__()
        self.start, self.end = start, end

    @property
    def coefficient(self) -> Tensor:
        """The share a that the router has at present; exactly 0 from ``end`` on."""
        return ((self.end - self.progress) / (self.end - self.start)).clamp(0, 1)


class Router(Branch):
    """``g * z``: what the neurons get before their non-linearity, weighted expert by expert."""

    labels: Tensor

    def __init__(self, labels: Tensor, weight: Tensor, temperature: float, fade: Fade) -> None:
        """Weigh the expert ``labels[h]`` of neuron h with ``weight``, R (inputs, K), divided by tau."""
        super().__init__()
        self.register_buffer("labels", labels.to(torch.int16))
        self.weight = nn.Parameter(weight)
        self.temperature = temperature
        self.shared = (fade,)

    @property
    def fade(self) -> Fade:
        """What tells how much of the router is left."""
        return cast("Fade", self.shared[0])

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Multiply each neuron's value (B, N, H) with the weight of its expert."""
        return self.gate(inputs) * output

    def gate(self, inputs: Tensor) -> Tensor:
        """Return g (B, N, H), whose mean over the experts is 1."""
        num_experts = self.weight.shape[1]
        a = self.fade.coefficient
        weight_BNK = num_experts * torch.softmax(inputs @ self.weight / self.temperature, dim=-1)
        weight_BNK = a * weight_BNK + (1 - a)
        experts = torch.arange(num_experts, device=self.labels.device)
        # A product with zeros and ones is four times as fast as indexing, whose gradient is a scatter.
        return weight_BNK @ (self.labels == experts[:, None]).to(weight_BNK.dtype)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return both as they are once the router has faded; TypeError before."""
        a = float(self.fade.coefficient)
        if a > 0:
            raise TypeError(f"the router still acts (a = {a:.2g}): it can be merged once it has faded")
        return weight, bias


@register("moe-lora")
@dataclass(frozen=True)
class MoELoRA(TwoRates):
    """Not the identity at the start; mergeable when a task's training has ended."""

    identity_at_start: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
    faster: ClassVar[tuple[str, ...]] = ("up",)

    rank: Annotated[int, Field(ge=1)] = 4
    num_experts: Annotated[int, Field(ge=1)] = 16  # of each MLP, K; divides the number of its neurons
    temperature: Annotated[float, Field(gt=0)] = 5.0  # tau
    fade: Literal["first_half", "last", "never"] = (
        "first_half"  # when in a task's training: as in the code, in the paper, or never: it merges never
    )
    init: Literal["zero_b", "official"] = "zero_b"  # whether B starts at zero or is drawn

    def branches(self, backbone: Backbone, generator: torch.Generator) -> Iterator[tuple[Site, Branch]]:
        """Put LoRA on each linear layer of every block, and a router behind the first of its MLP."""
        fade = Fade(*FADES[self.fade])
        for block in backbone.blocks:
            attention = ["attn.qkv", "attn.proj"] if block.has("attn") else []
            for name in [*attention, "mlp.fc1", "mlp.fc2"]:
                site = linear(block, name)
                yield site, LowRank(site, self.rank, zero=self.init == "zero_b", generator=generator)
            yield block["mlp.fc1"], self._router(block["mlp.fc1"], fade, generator)

    def _router(self, site: Site, fade: Fade, generator: torch.Generator) -> Router:
        neurons = cast("nn.Linear", site.layer).weight
        check_divides("num_experts", self.num_experts, f"the neurons of {site.name}", site.width)
        labels = balanced_kmeans(F.normalize(neurons.float(), dim=1), self.num_experts, generator)
        weight = torch.empty(neurons.shape[1], self.num_experts)
        nn.init.trunc_normal_(weight, std=STD, generator=generator)
        return Router(labels, weight, self.temperature, fade)


def linear(block: BlockSites, name: str) -> Site:
    """Return the site of a linear layer; NoSuchSiteError if there is a convolution in its place."""
    site = block[name]
    if site.channels_first:
        raise NoSuchSiteError(f"moe-lora needs linear layers; {site.name} of this backbone is a convolution")
    return site
