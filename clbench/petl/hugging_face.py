"""Offer the methods of Hugging Face peft on the linear layers of any backbone, one class a method.

Their mathematics, initial values and merging are peft's (``peft_layers``, ``peft_branch``). A weight W has O
rows, its outputs, and I columns, its inputs; r is the rank. Numbers of parameters without a formula are those
of ViT-B/16 on ``attn.qkv`` (O = 2304, I = 768, 12 blocks), with the defaults if nothing else is said.

Differs from the papers: most adapt language models, and other layers (``sites`` chooses them); what a method
does beside gradient descent, such as AdaLoRA's pruning, is not done. What peft offers and this file does not
is in ``REFUSED``, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import BlockSites, Branch, Site
from clbench.petl import Petl, register
from clbench.petl.attached import Attached
from clbench.petl.parts.peft_branch import PeftBranch, Place
from clbench.petl.parts.peft_layers import PeftError, peft_layers
from clbench.registry import did_you_mean
from clbench.seeds import forked

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]

FACTORS = ("lora_A", "lora_B")
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


@register("peft.lora")
@dataclass(frozen=True)
class LoRA(PeftMethod):
    """LoRA: W + alpha / r B A, where B starts at zero.

    E. Hu et al., ICLR 2022, arXiv 2106.09685. r (O + I) parameters a layer; 294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r
    dropout: Rate = 0.0  # of the input of B A


@register("peft.rslora")
@dataclass(frozen=True)
class RankStabilised(PeftMethod):
    """rsLoRA: W + alpha / sqrt(r) B A, where B starts at zero.

    D. Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv 2312.03732.
    294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    fixed: ClassVar[dict[str, Any]] = {"use_rslora": True}

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / sqrt(r)
    dropout: Rate = 0.0  # of the input of B A


@register("peft.dora")
@dataclass(frozen=True)
class DoRA(PeftMethod):
    """DoRA: LoRA on the direction of the weight's rows, and a magnitude for each row.

    S.-Y. Liu et al., ICML 2024, arXiv 2402.09353. r (O + I) + O parameters a layer; 322,560 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    fixed: ClassVar[dict[str, Any]] = {"use_dora": True}

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r
    dropout: Rate = 0.0  # of the input of B A


@register("peft.pissa")
@dataclass(frozen=True)
class PiSSA(PeftMethod):
    """PiSSA: LoRA that starts from the principal singular vectors, which are taken off the weight.

    F. Meng, Z. Wang, M. Zhang, NeurIPS 2024, arXiv 2404.02948. The backbone keeps its weight: the first
    factors are stored, and W + s (B A - B0 A0) is computed. 294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {
        "rank": "r",
        "alpha": "lora_alpha",
        "decomposition": "init_lora_weights",
    }
    stored: ClassVar[tuple[str, ...]] = FACTORS
    subtracts_start: ClassVar[bool] = True

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r
    decomposition: Literal["pissa", "pissa_niter_4", "pissa_niter_16"] = "pissa"  # exact, or random


@register("peft.olora")
@dataclass(frozen=True)
class OLoRA(PeftMethod):
    """OLoRA: LoRA that starts from the QR decomposition, which is taken off the weight.

    K. Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation", arXiv 2406.01775. The first factors are stored as
    for PiSSA. 294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha"}
    fixed: ClassVar[dict[str, Any]] = {"init_lora_weights": "olora"}
    stored: ClassVar[tuple[str, ...]] = FACTORS
    subtracts_start: ClassVar[bool] = True

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r


@register("peft.lora-ga")
@dataclass(frozen=True)
class LoRAGA(PeftMethod):
    """LoRA-GA: LoRA that starts from the singular vectors of the gradient of the loss.

    S. Wang, L. Yu, J. Li, NeurIPS 2024, arXiv 2407.05000. A run shows it the first batches of its first task;
    in a loop of your own call ``module.start(loss, batches, generator)`` before training: until then it is
    plain LoRA. 294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha"}
    stored: ClassVar[tuple[str, ...]] = FACTORS
    subtracts_start: ClassVar[bool] = True
    starts_from_loss: ClassVar[bool] = True

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r
    gamma: Positive = 16  # the vectors of both factors start with the length O^(1/4) / sqrt(gamma)

    def start(
        self,
        attached: Attached,
        loss: Callable[[Any], Tensor],
        batches: Iterable[Any],
        generator: torch.Generator,
    ) -> None:
        """Give the factors their start from the gradient of the loss."""
        from clbench.petl.lora_ga import start_from_gradient

        start_from_gradient(attached, loss, batches, rank=self.rank, gamma=self.gamma, generator=generator)


@register("peft.orthogonal-lora")
@dataclass(frozen=True)
class OrthogonalLoRA(PeftMethod):
    """LoRA that starts from random orthogonal factors whose product is zero.

    peft's own variant of OLoRA that leaves the weight as it is. The rank is even. 294,912 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha"}
    fixed: ClassVar[dict[str, Any]] = {"init_lora_weights": "orthogonal"}

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r


@register("peft.mica")
@dataclass(frozen=True)
class MiCA(PeftMethod):
    """MiCA: LoRA whose B is frozen at the last left singular vectors of the weight.

    "Minor Component Adaptation", arXiv 2604.01694. r I parameters a layer; 73,728 with rank 8.
    """

    method: ClassVar[str] = "LORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "lora_alpha"}
    fixed: ClassVar[dict[str, Any]] = {"init_lora_weights": "mica"}
    stored: ClassVar[tuple[str, ...]] = ("lora_B",)

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r


@register("peft.adalora")
@dataclass(frozen=True)
class AdaLoRA(PeftMethod):
    """AdaLoRA: W + s B diag(E) A, whose ranks the paper prunes while training.

    Q. Zhang et al., ICLR 2023, arXiv 2303.10512. Differs from the paper: neither the budget nor the penalty
    that keeps A and B orthogonal is there, so every layer keeps its rank. r (O + I + 1) parameters; 442,512.
    """

    method: ClassVar[str] = "ADALORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "init_r", "alpha": "lora_alpha"}
    fixed: ClassVar[dict[str, Any]] = {"target_r": 1, "total_step": 1 << 62}
    in_place: ClassVar[bool] = True

    rank: Count = 12
    alpha: Positive = 8  # the update is scaled by alpha / r


@register("peft.adamss")
@dataclass(frozen=True)
class AdaMSS(PeftMethod):
    """AdaMSS: a small low-rank update in each of several subspaces of the weight.

    "AdaMSS: Adaptive Multi-Subspace Approach for Parameter-Efficient Fine-Tuning", NeurIPS 2025. Differs from
    the paper: no subspace is pruned while training. How rows are clustered depends on the weights.
    """

    method: ClassVar[str] = "ADAMSS"
    keywords: ClassVar[dict[str, str]] = {
        "rank": "r",
        "num_subspaces": "num_subspaces",
        "subspace_rank": "subspace_rank",
        "frozen_seed": "random_seed",
    }
    stored: ClassVar[tuple[str, ...]] = ("adamss_newB", "scatter_index")

    rank: Count = 100  # of the decomposition that is segmented
    num_subspaces: Count = 5  # that the rows are clustered into
    subspace_rank: Count = 1  # of the update in each
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.beft")
@dataclass(frozen=True)
class BEFT(PeftMethod):
    """BEFT: a trained bias, and nothing else.

    B. Huang, A. Balashankar, A. Aminifar, ACL 2026, arXiv 2509.15974; the paper finds attn.v the best layer.
    O parameters a layer; 27,648.
    """

    method: ClassVar[str] = "BEFT"


@register("peft.boft")
@dataclass(frozen=True)
class BOFT(PeftMethod):
    """BOFT: W times an orthogonal matrix made of butterfly factors, and a scale for each row.

    W. Liu et al., ICLR 2024, arXiv 2311.06243. One factor of I / b blocks, each the Cayley transform of a b x
    b matrix. b I + O parameters a layer; 101,376 with blocks of 8.
    """

    method: ClassVar[str] = "BOFT"
    keywords: ClassVar[dict[str, str]] = {"block_size": "boft_block_size"}

    block_size: Count = 8  # divides I


@register("peft.c3a")
@dataclass(frozen=True)
class C3A(PeftMethod):
    """C3A: an update whose blocks are circulant matrices, computed as convolutions.

    A. Chen et al., arXiv 2407.19342. O I / b parameters a layer; 331,776 with blocks of 64.
    """

    method: ClassVar[str] = "C3A"
    keywords: ClassVar[dict[str, str]] = {"block_size": "block_size"}
    identity_at_start: ClassVar[bool] = False
    in_place: ClassVar[bool] = True

    block_size: Count = 64  # divides O and I


@register("peft.deft")
@dataclass(frozen=True)
class DEFT(PeftMethod):
    """DEFT: removes a low-rank subspace from the weight and writes a low-rank update into it.

    K. Kumar et al., NeurIPS 2025, arXiv 2509.22793. r (O + I) parameters a layer.
    """

    method: ClassVar[str] = "DEFT"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "projection": "decomposition_method"}

    rank: Count = 8
    projection: Literal["relu", "qr"] = "relu"  # P relu(P)^T, or onto an orthonormal basis of P


@register("peft.delora")
@dataclass(frozen=True)
class DeLoRA(PeftMethod):
    """DeLoRA: LoRA of normalised rank-one terms, times a trained strength.

    M. Bini, L. Girrbach, Z. Akata, ICLR 2025, arXiv 2503.18225. r (O + I) + 1 parameters a layer; 294,924
    with rank 8.
    """

    method: ClassVar[str] = "DELORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "strength": "delora_lambda"}
    stored: ClassVar[tuple[str, ...]] = ("delora_w_norm",)

    rank: Count = 8
    strength: Positive = 15  # at the start; lambda in the paper


@register("peft.fourierft")
@dataclass(frozen=True)
class FourierFT(PeftMethod):
    """FourierFT: an update with a few trained entries of its Fourier spectrum, at random places.

    Z. Gao et al., ICML 2024, arXiv 2405.03003. The spectrum starts at N(0, 1): not the identity. 12,000 with
    1,000 frequencies.
    """

    method: ClassVar[str] = "FOURIERFT"
    keywords: ClassVar[dict[str, str]] = {
        "num_frequencies": "n_frequency",
        "scale": "scaling",
        "frozen_seed": "random_loc_seed",
    }
    identity_at_start: ClassVar[bool] = False

    num_frequencies: Count = 1000  # a layer
    scale: Positive = 150  # of the update
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.glora")
@dataclass(frozen=True)
class GLoRA(PeftMethod):
    """GLoRA: trained changes of weight and bias, multiplied with them and added to them.

    A. Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning", arXiv 2306.07967,
    without its search for the form of each part. 663,672 with rank 8.
    """

    method: ClassVar[str] = "GLORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r"}
    recomputes: ClassVar[bool] = True

    rank: Count = 8


@register("peft.gralora")
@dataclass(frozen=True)
class GraLoRA(PeftMethod):
    """GraLoRA: a LoRA in each of k x k blocks of the weight.

    Y. Jung et al., "GraLoRA: Granular Low-Rank Adaptation", arXiv 2505.20355. r (O + I) parameters a layer;
    294,912 with rank 8.
    """

    method: ClassVar[str] = "GRALORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "alpha", "num_blocks": "gralora_k"}
    in_place: ClassVar[bool] = True

    rank: Count = 8
    alpha: Positive = 16  # the update is scaled by alpha / r
    num_blocks: Count = 2  # a side; k divides the rank, O and I


@register("peft.hira")
@dataclass(frozen=True)
class HiRA(PeftMethod):
    """HiRA: W + W * (B A), entry by entry.

    Q. Huang et al., "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models", ICLR
    2025. r (O + I) parameters a layer; 294,912 with rank 8.
    """

    method: ClassVar[str] = "HIRA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r"}

    rank: Count = 8


@register("peft.hra")
@dataclass(frozen=True)
class HRA(PeftMethod):
    """HRA: W times r Householder reflections, which start in equal pairs.

    S. Yuan, H. Liu, H. Xu, NeurIPS 2024, arXiv 2405.17484. r I parameters a layer; 73,728 with rank 8.
    """

    method: ClassVar[str] = "HRA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r"}
    recomputes: ClassVar[bool] = True

    rank: Count = 8  # even, for the identity at the start


@register("peft.ia3")
@dataclass(frozen=True)
class IA3(PeftMethod):
    """(IA)3: a factor for each row of the layer, or for each input of mlp.fc2.

    H. Liu et al., NeurIPS 2022, arXiv 2205.05638. 55,296 on the sites of the paper, which are the default.
    """

    method: ClassVar[str] = "IA3"
    fixed: ClassVar[dict[str, Any]] = {"feedforward_modules": r".*mlp-fc2"}

    sites: str = "attn.k,attn.v,mlp.fc2"  # in every block


@register("peft.loha")
@dataclass(frozen=True)
class LoHa(PeftMethod):
    """LoHa: the entrywise product of two low-rank products.

    N. Hyeon-Woo, M. Ye-Bin, T.-H. Oh, "FedPara", ICLR 2022, arXiv 2108.06098; named by LyCORIS, S.-Y. Yeh et
    al., ICLR 2024, arXiv 2309.14859. 2 r (O + I) parameters a layer; 589,824 with rank 8.
    """

    method: ClassVar[str] = "LOHA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "alpha"}

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r


@register("peft.lokr")
@dataclass(frozen=True)
class LoKr(PeftMethod):
    """LoKr: the Kronecker product of a small matrix and a low-rank product.

    A. Edalati et al., "KronA", arXiv 2212.10650; in the form of LyCORIS, S.-Y. Yeh et al., ICLR 2024, arXiv
    2309.14859. 21,504 with rank 8.
    """

    method: ClassVar[str] = "LOKR"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "alpha": "alpha", "factor": "decompose_factor"}

    rank: Count = 8
    alpha: Positive = 8  # the update is scaled by alpha / r
    factor: int = -1  # rows and columns of the small matrix at most; -1: near the square roots


@register("peft.miss")
@dataclass(frozen=True)
class MiSS(PeftMethod):
    """MiSS: one r x O shard, repeated along the inputs.

    J. Kang, arXiv 2409.15371. "mini" repeats it along the outputs, too. r O parameters a layer; 1,769,472
    with rank 64.
    """

    method: ClassVar[str] = "MISS"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "form": "init_weights", "mini_columns": "mini_r"}

    rank: Count = 64
    form: Literal["miss", "mini"] = "miss"  # the whole shard, or a shorter one
    mini_columns: Count = 64  # columns of the shard of "mini"; divides O


@register("peft.bone")
@dataclass(frozen=True)
class Bone(PeftMethod):
    """Bone in its column form, which peft calls BAT: W B + B, one r x r block B for each r rows.

    J. Kang, "Bone: Block Affine Transformation", arXiv 2409.15371v3. r O parameters a layer; 1,769,472 with
    rank 64.
    """

    method: ClassVar[str] = "MISS"
    keywords: ClassVar[dict[str, str]] = {"rank": "r"}
    fixed: ClassVar[dict[str, Any]] = {"init_weights": "bat"}
    recomputes: ClassVar[bool] = True

    rank: Count = 64  # divides O and I


@register("peft.oft")
@dataclass(frozen=True)
class OFT(PeftMethod):
    """OFT: W times an orthogonal matrix of blocks on the diagonal.

    Z. Qiu et al., NeurIPS 2023, arXiv 2306.07280. Each block is the Cayley transform of a skew matrix, its
    inverse a Neumann series of five terms. (b - 1) I / 2 parameters a layer; 142,848 with blocks of 32.
    """

    method: ClassVar[str] = "OFT"
    keywords: ClassVar[dict[str, str]] = {"block_size": "oft_block_size"}

    block_size: Count = 32  # divides I


@register("peft.peanut")
@dataclass(frozen=True)
class PEANuT(PeftMethod):
    """PEANuT: an update that a small network computes from the weight itself.

    "PEANuT: Parameter-Efficient Adaptation with Weight-aware Neural Tweakers", arXiv 2410.01870. 2 r O
    parameters a layer without hidden layers.
    """

    method: ClassVar[str] = "PEANUT"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "depth": "depth"}

    rank: Count = 8
    depth: Annotated[int, Field(ge=0)] = 0  # hidden layers on either side


@register("peft.psoft")
@dataclass(frozen=True)
class PSOFT(PeftMethod):
    """PSOFT: an orthogonal matrix and two scales inside the principal subspace of the weight.

    "Efficient Orthogonal Fine-Tuning with Principal Subspace Adaptation", ICLR 2026. r (r - 1) / 2 + 2 r
    parameters a layer; 528 with rank 8.
    """

    method: ClassVar[str] = "PSOFT"
    keywords: ClassVar[dict[str, str]] = {"rank": "r"}
    stored: ClassVar[tuple[str, ...]] = ("_psoft_A_cache", "_psoft_B_cache")

    rank: Count = 8


@register("peft.pvera")
@dataclass(frozen=True)
class PVeRA(PeftMethod):
    """PVeRA: VeRA whose inner activations are drawn from a trained normal distribution while training.

    L. Fillioux et al., "PVeRA: Probabilistic Vector-Based Random Matrix Adaptation", WACV 2026, arXiv
    2512.07703. A prediction takes the mean. O + 2 r parameters a layer; 33,792 with rank 256.
    """

    method: ClassVar[str] = "PVERA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "frozen_seed": "projection_prng_key"}

    rank: Count = 256
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.randlora")
@dataclass(frozen=True)
class RandLoRA(PeftMethod):
    """RandLoRA: a full-rank sum of random low-rank products with trained scales.

    P. Albert et al., ICLR 2025, arXiv 2502.00987. 230,400 with rank 32.
    """

    method: ClassVar[str] = "RANDLORA"
    keywords: ClassVar[dict[str, str]] = {
        "rank": "r",
        "alpha": "randlora_alpha",
        "frozen_seed": "projection_prng_key",
    }

    # Its products are large: the strategies' own learning rate is too high for it.
    recipe: ClassVar[dict[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0}

    rank: Count = 32
    alpha: Positive = 640  # the update is scaled by alpha / r
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.road")
@dataclass(frozen=True)
class RoAd(PeftMethod):
    """RoAd: rotations and scales of pairs of outputs.

    B. Liao, C. Monz, "3-in-1: 2D Rotary Adaptation for Efficient Finetuning, Efficient Batching and
    Composability", NeurIPS 2024, arXiv 2409.00119. O parameters a layer; 27,648 for road_1.
    """

    method: ClassVar[str] = "ROAD"
    keywords: ClassVar[dict[str, str]] = {"variant": "variant", "group_size": "group_size"}

    variant: Literal["road_1", "road_2", "road_4"] = "road_1"  # O, 2 O or 4 O parameters
    group_size: Count = 64  # outputs that are paired among themselves; divides O


@register("peft.shira")
@dataclass(frozen=True)
class SHiRA(PeftMethod):
    """SHiRA: a few trained entries of the weight, at random places.

    K. Bhardwaj et al., "Sparse High Rank Adapters", NeurIPS 2024, arXiv 2406.13175. r (O + I) parameters a
    layer; 294,912 with rank 8.
    """

    method: ClassVar[str] = "SHIRA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "frozen_seed": "random_seed"}
    recomputes: ClassVar[bool] = True

    rank: Count = 8
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.supertuning")
@dataclass(frozen=True)
class SuperTuning(PeftMethod):
    """Super-Tuning: a few trained entries of the weight, the largest ones.

    arXiv 2607.09287.
    """

    method: ClassVar[str] = "SUPERTUNING"
    keywords: ClassVar[dict[str, str]] = {"sparsity": "sparsity"}
    stored: ClassVar[tuple[str, ...]] = ("supertuning_indices",)
    recomputes: ClassVar[bool] = True

    sparsity: Rate = 0.99  # share of the entries that stay frozen


@register("peft.tinylora")
@dataclass(frozen=True)
class TinyLoRA(PeftMethod):
    """TinyLoRA: a trained vector, projected at random onto the principal singular vectors.

    "Learning to Reason in 13 Parameters", arXiv 2602.04118. u parameters a layer; 768 with u = 64.
    """

    method: ClassVar[str] = "TINYLORA"
    keywords: ClassVar[dict[str, str]] = {
        "rank": "r",
        "size": "u",
        "tying": "weight_tying",
        "frozen_seed": "projection_seed",
    }
    stored: ClassVar[tuple[str, ...]] = ("tinylora_A", "tinylora_B")

    rank: Count = 2
    size: Count = 64  # of the vector; u in the paper
    tying: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the layers that share vectors
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.unilora")
@dataclass(frozen=True)
class UniLoRA(PeftMethod):
    """Uni-LoRA: every entry of all LoRA factors is one of a few trained numbers.

    "Uni-LoRA: One Vector is All You Need", arXiv 2506.00799. As many parameters as the vector is long; not
    the identity at the start.
    """

    method: ClassVar[str] = "UNILORA"
    keywords: ClassVar[dict[str, str]] = {"rank": "r", "size": "theta_d_length", "frozen_seed": "proj_seed"}
    identity_at_start: ClassVar[bool] = False

    rank: Count = 4
    size: Count = 256  # of the one vector
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.vblora")
@dataclass(frozen=True)
class VBLoRA(PeftMethod):
    """VB-LoRA: LoRA factors mixed from a bank of vectors that all layers share.

    Y. Li, S. Han, S. Ji, NeurIPS 2024, arXiv 2405.15179. Not the identity at the start. 212,992 with 256
    vectors of 256.
    """

    method: ClassVar[str] = "VBLORA"
    keywords: ClassVar[dict[str, str]] = {
        "rank": "r",
        "num_vectors": "num_vectors",
        "vector_size": "vector_length",
        "num_mixed": "topk",
    }
    identity_at_start: ClassVar[bool] = False

    rank: Count = 4
    num_vectors: Count = 256  # in the bank
    vector_size: Count = 64  # divides O and I
    num_mixed: Count = 2  # vectors that a part of a factor is mixed from


@register("peft.vera")
@dataclass(frozen=True)
class VeRA(PeftMethod):
    """VeRA: trained scales of frozen random LoRA factors that all layers share.

    D. Kopiczko, T. Blankevoort, Y. Asano, ICLR 2024, arXiv 2310.11454. O + r parameters a layer; 30,720 with
    rank 256.
    """

    method: ClassVar[str] = "VERA"
    keywords: ClassVar[dict[str, str]] = {
        "rank": "r",
        "scale": "d_initial",
        "frozen_seed": "projection_prng_key",
    }

    rank: Count = 256
    scale: Positive = 0.1  # of the first factor at the start
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored


@register("peft.waveft")
@dataclass(frozen=True)
class WaveFT(PeftMethod):
    """WaveFT: an update with a few trained entries of its wavelet spectrum, at random places.

    A. Bilican et al., "Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets", arXiv
    2505.12532. 12,000 with 1,000 entries.
    """

    method: ClassVar[str] = "WAVEFT"
    keywords: ClassVar[dict[str, str]] = {
        "num_entries": "n_frequency",
        "scale": "scaling",
        "frozen_seed": "random_loc_seed",
    }

    num_entries: Count = 1000  # a layer
    scale: Positive = 25  # of the update
    frozen_seed: Seed = 0  # of what is random and frozen, and so not stored
