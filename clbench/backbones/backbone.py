"""Hold an opened model: the encoder, its sites, and what it expects of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from clbench.backbones.carried import Carried, carried_by
from clbench.backbones.ranks import Compute, Ranks
from clbench.backbones.sites import HALF, BlockSites, NoSuchSiteError, Site
from clbench.registry import did_you_mean

NEEDS_ALL_TOKENS = (
    "needs each token in its place, and this backbone is to merge or drop some; take a module that treats"
    " tokens one by one, such as lora, adapter or ssf"
)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the backbone sees it."""

    image_size: int  # pixels a side
    mean: tuple[float, ...]  # of pixels scaled to [0, 1]
    std: tuple[float, ...]
    crop: float  # share of the shorter side that the test transform keeps, in (0, 1]
    interpolation: str  # bilinear or bicubic


class AttachedModule(Protocol):
    """What a backbone asks of the modules at its sites, to know whether its features may change."""

    enabled: bool

    @property
    def name(self) -> str:
        """What it is called by."""

    @property
    def needs_all_tokens(self) -> bool:
        """Whether it fails, or errs, where tokens were merged or dropped before it."""

    @property
    def is_felt(self) -> bool:
        """Whether the backbone computes with the module."""

    @property
    def is_pure(self) -> bool:
        """Whether what it makes of an image depends on nothing else but its parameters."""

    @property
    def is_frozen(self) -> bool:
        """Whether the same input gives the same output at each call."""

    @property
    def first_block(self) -> int:
        """Index of the first block that feels the module."""

    def state_key(self) -> str:
        """Return a digest of the module's options and values."""


class LowBitForm(Protocol):
    """What a backbone asks of a quantiser's work on it."""

    enabled: bool

    @property
    def is_settled(self) -> bool:
        """Whether it stays as it is."""

    @property
    def computed_by(self) -> str:
        """What products with its weights are computed by, where that is more than torch."""

    def state_key(self) -> str:
        """Return a digest of the options and of all that was chosen."""


class FewerTokens(Protocol):
    """What a backbone asks of a compressor's work on it."""

    enabled: bool

    @property
    def moves_tokens(self) -> bool:
        """Whether any token is merged or dropped."""

    @property
    def first_block(self) -> int:
        """Index of the first block that is computed in another way."""

    def state_key(self) -> str:
        """Return a digest of the options, and of what they bring."""


class Backbone(nn.Module):
    """An image encoder: images (B, 3, S, S), normalised, to features (B, width)."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        width: int,
        blocks: list[BlockSites],
        grid: tuple[int, int] | None,
        sites: dict[str, Site],
        memory_format: torch.memory_format,
        preprocessing: Preprocessing,
        weights_source: str,
        weights_digest: str,
        plain_names: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Take an opened timm model; ``sites`` are those outside blocks, such as "embed".

        ``plain_names`` pairs each tensor's name in the model before it was opened with its name now.
        """
        super().__init__()
        self.name = name
        self.model = model
        self.pooled = Site("pooled", None, width)
        self.width = width
        self.blocks = blocks
        self.grid = grid  # patches down and across in the last stage, where tokens form one; else None
        self.memory_format = memory_format  # that images are laid out in
        self.preprocessing = preprocessing
        self.weights_source = weights_source  # where the weights came from: "random", a hub tag, a file name
        self.weights_digest = weights_digest  # SHA-256 over names and values
        self.notes: list[str] = []  # lines for a run's header
        self.attached: list[AttachedModule] = []  # the modules at its sites, on or off
        self.quantised: list[LowBitForm] = []  # what computes with few bits in it, one at most
        self.compressed: list[FewerTokens] = []  # what lets it go on with fewer tokens, one at most
        self.ranks: Ranks | None = None  # the processes that a batch is shared out over; None: there is one
        self.plain_names = dict(plain_names)  # what timm called each tensor of the model, and its name now
        self.sites = {**sites, "pooled": self.pooled}
        for block in blocks:
            prefix = f"block[{block.index}]"
            self.sites |= {f"{prefix}.{name}" if name else prefix: site for name, site in block.sites.items()}

    @property
    def carried(self) -> Carried | None:
        """The modules that the model carries, if it is a plain one that was opened in place."""
        return carried_by(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are held in."""
        return next(self.parameters()).dtype

    @property
    def classifier(self) -> list[nn.Module]:
        """The layers of a classifier that the model may still have; no feature depends on them."""
        layers = self.model.get_classifier()  # type: ignore[operator]  # every timm model's
        return list(layers) if isinstance(layers, tuple) else [layers]

    @property
    def first_changing_block(self) -> int:
        """Index of the first block whose output may change from one call to the next for the same input.

        0: anything may change; the number of blocks: nothing does, since no active module is being trained.
        """
        changing = [module for module in self.attached if module.enabled and not module.is_frozen]
        first = min((module.first_block for module in changing), default=len(self.blocks))
        if first == len(self.blocks):
            return first
        # What enters a block behind a merging one is more than its tokens: also how many each stands for.
        return min([first, *(form.first_block for form in self.compressed if form.enabled)])

    @property
    def moves_tokens(self) -> bool:
        """Whether any token is merged or dropped on the way."""
        return any(form.enabled and form.moves_tokens for form in self.compressed)

    @property
    def is_itself(self) -> bool:
        """Whether no module is felt, and what is quantised stays so."""
        return not any(module.is_felt for module in self.attached) and all(
            form.is_settled for form in self.quantised if form.enabled
        )

    def frozen_key(self) -> str:
        """Return a text that only equal active modules share, but for those that are being trained.

        It also tells the forms of few bits and of fewer tokens apart.
        """
        fewer = [form.state_key() for form in self.compressed if form.enabled]
        modules = [module.state_key() for module in self.attached if module.is_felt and module.is_frozen]
        forms = [form for form in self.quantised if form.enabled]
        return " ".join([*(form.state_key() + form.computed_by for form in forms), *fewer, *modules])

    def tensor_names(self) -> list[str]:
        """Return the names of all parameters and saved buffers but a classifier's and carried modules'."""
        layers = {id(layer) for layer in (*self.classifier, self.carried) if layer is not None}
        others = tuple(f"{name}." for name, module in self.named_modules() if id(module) in layers)
        return [name for name in self.state_dict() if not name.startswith(others)]

    @property
    def num_bytes(self) -> int:
        """Bytes of its own tensors as they are held: those of low-bit layers packed."""
        state = self.state_dict()
        return sum(state[name].nbytes for name in self.tensor_names())

    def own_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the names and parts of the network, without the modules that the model may carry."""
        yield from self.named_modules(memo=set() if self.carried is None else set(self.carried.modules()))

    def set_training(self, on: bool) -> None:
        """Set the mode of the network alone, whatever the modules' is that it may carry."""
        for _, module in self.own_modules():
            module.training = on

    def site(self, name: str) -> Site:
        """Return a site by its full name, such as ``block[3].attn.qkv``."""
        if name not in self.sites:
            raise NoSuchSiteError(f"{self.name} has no site {name!r}{did_you_mean(name, self.sites)}")
        return self.sites[name]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, width) of a normalised batch, in float32 but for autocast."""
        return self.shared(self._computed, images)

    def shared(self, compute: Compute, images: Tensor) -> Tensor:
        """Return what ``compute`` makes of a batch (B, ...) of images, or of what they were made into.

        It is all of the backbone, or some of its blocks. Where several processes share a run each computes
        its part of the batch, unless what comes of an image depends on more than itself.
        """
        if self.ranks is None:
            return compute(images)
        active = [module for module in self.attached if module.enabled]
        is_settled = all(form.is_settled for form in self.quantised if form.enabled)
        if not (is_settled and all(module.is_pure for module in active)):
            return compute(images)
        names = (f"{place}: {module.name}" for place, module in enumerate(active))
        named = dict(zip(names, (cast("nn.Module", module) for module in active), strict=True))
        return self.ranks.shared({self.name: self, **named}, compute, images)

    def _computed(self, images: Tensor) -> Tensor:
        images = images.to(self.dtype, memory_format=self.memory_format)
        maps = self.model.forward_features(images)  # type: ignore[operator]  # every timm model's
        features: Tensor = self.pooled(self.model.forward_head(maps, pre_logits=True))  # type: ignore[operator]  # too
        return features.float() if self.dtype in HALF else features
