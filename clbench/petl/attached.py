"""Hold a module that is attached to a backbone: its parameters, its switch, its copies and its merge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import HALF, Branch, Site, Switch
from clbench.kinds import HasKinds
from clbench.petl import Petl, name_of
from clbench.petl.digest import StateDigest
from clbench.petl.in_place import install, key_of, tensor_of
from clbench.petl.merging import Merged
from clbench.petl.rates import StatesRates, by_rate_ratio
from clbench.petl.saving import save_module


class Attached(HasKinds, StatesRates):
    """Branches at the sites of one backbone, and trained copies of some of its own tensors.

    ``parameters()`` and ``state_dict()`` are the module's alone; the backbone is never part of them. Several
    can be attached to one backbone. ``enabled`` switches a whole set at once; with all of them off the
    backbone is bit for bit what it was.
    """

    kinds: ClassVar[dict[str, str]] = {"": "modules"}

    started: Tensor

    def __init__(
        self,
        backbone: Backbone,
        petl: Petl,
        branches: list[tuple[Site, Branch]],
        tuned: dict[str, Tensor],
    ) -> None:
        """Attach the branches; ``tuned`` maps names of backbone tensors to what takes their place."""
        super().__init__()
        self.petl = petl  # what this was made by
        self.branches = nn.ModuleList([branch for _, branch in branches])
        shared = {id(module): module for _, branch in branches for module in branch.shared}
        self.shared = nn.ModuleList(shared.values())
        for parts in (self.branches, self.shared):
            parts.to(backbone.device)
            if backbone.dtype == torch.float64:  # beside half precision, branches compute in float32
                parts.double()
        self._sites = [site for site, _ in branches]
        self._switch = Switch()
        self._switch.on = False  # until everything is in its place
        self._backbone = (backbone,)  # in a tuple, so that the backbone is no part of this module
        for site, branch in branches:
            site.attached.append((self._switch, branch))
        self._base: dict[str, Tensor] = {name: tensor_of(backbone, name) for name in tuned}
        for name, tensor in tuned.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(key_of(name), tensor)
            else:
                self.register_buffer(key_of(name), tensor)
        if petl.starts_from_loss:
            self.register_buffer("started", torch.zeros(()))  # in the state: a resumed run starts no more
        self._merged: Merged | None = None
        self._digest = StateDigest()
        backbone.attached.append(self)
        if backbone.carried is not None:
            backbone.carried.append(self)
        super().train(False)  # as the backbone is, whose own mode stays what it was: dropout starts off
        self._settle()
        self.enabled = True

    @property
    def backbone(self) -> Backbone:
        """What the module is attached to."""
        return self._backbone[0]

    @property
    def name(self) -> str:
        """The registered name of what this was made by, or its class's."""
        return name_of(self.petl)

    @property
    def needs_all_tokens(self) -> bool:
        """Whether it fails, or errs, where tokens were merged or dropped before it."""
        return any(cast("Branch", branch).needs_all_tokens for branch in self.branches)

    @property
    def enabled(self) -> bool:
        """Whether the backbone's output feels the module."""
        return self._switch.on

    @enabled.setter
    def enabled(self, on: bool) -> None:
        if on == self._switch.on:
            return  # another module may have its own tensors in the backbone now
        self._switch.on = on
        for name, tensor in (self._own if on else self._base).items():
            install(self.backbone, name, tensor)
        if self.petl.trains_backbone:  # its batch norms are in the mode of whose statistics they use
            self.backbone.set_training(on and self.training)

    @property
    def _own(self) -> dict[str, Tensor]:
        """What takes the place of the backbone's tensors, by their names."""
        return {name: cast("Tensor", getattr(self, key_of(name))) for name in self._base}

    def installed(self) -> dict[str, Tensor]:
        """Return the tensors, by their names here, that are in the backbone's own places now."""
        if not self.enabled:
            return {}
        return {key_of(name): tensor_of(self.backbone, name) for name in self._base}

    @property
    def replaced(self) -> list[str]:
        """The names of the backbone's own tensors that the module has others for."""
        return list(self._base)

    @property
    def is_felt(self) -> bool:
        """Whether the backbone computes with the module, beside or folded into its weights."""
        return (self.enabled or self._merged is not None) and bool(self._sites or self._own)

    @property
    def is_pure(self) -> bool:
        """Whether what it makes of an image depends on nothing else but its parameters."""
        return all(cast("Branch", branch).is_pure for branch in self.branches)

    @property
    def is_frozen(self) -> bool:
        """Whether the same input gives the same output at each call, until something is changed by hand."""
        if any(parameter.requires_grad for parameter in self.parameters()) or self.training:
            return not (self._sites or self._own)
        return self.is_pure

    @property
    def first_block(self) -> int:
        """Index of the first block that feels the module; the number of blocks where none does."""
        num_blocks = len(self.backbone.blocks)
        places = [block_index(site.name, num_blocks) for site in self._sites]
        return min([*places, 0] if self._own else places, default=num_blocks)

    def rate_ratios(self) -> dict[nn.Parameter, float]:
        """Return what multiplies the learning rate of each parameter."""
        return {parameter: self.petl.rate_ratio(name) for name, parameter in self.named_parameters()}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return what learns in groups for an optimiser of torch's, each with its learning rate."""
        groups = by_rate_ratio([self])
        return [{"params": group, "lr": ratio * learning_rate} for ratio, group in groups.items()]

    def state_key(self) -> str:
        """Return a digest of the module's options and values."""
        return self._digest.of(self.petl, self.state_dict())

    @property
    def num_parameters(self) -> int:
        """Number of the module's own parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_branches(self) -> int:
        """Number of branches at sites of the backbone."""
        return len(self._sites)

    def train(self, mode: bool = True) -> Attached:
        """Set training mode; a backbone follows if it is trained itself and the module is on."""
        super().train(mode)
        if self.petl.trains_backbone and self.enabled:
            self.backbone.set_training(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Attached:
        """Follow a cast or a move."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch declares no types for it
        self._settle()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        """Follow values that come in tensors of their own."""
        super()._load_from_state_dict(*args)
        self._settle()

    def _settle(self) -> None:
        """Put the tensors that are here now where those before them were."""
        for name, tensor in self._own.items() if self.enabled else ():
            install(self.backbone, name, tensor)
        parts = [*self.branches.parameters(), *self.branches.buffers(), *self.shared.parameters()]
        self._switch.is_half = any(tensor.dtype in HALF for tensor in parts)

    @property
    def waits_to_start(self) -> bool:
        """Whether the module starts from the loss and has not seen it yet."""
        return self.petl.starts_from_loss and not self.started

    def start(
        self, loss: Callable[[Any], Tensor], batches: Iterable[Any], generator: torch.Generator
    ) -> None:
        """Let a module that starts from the loss do so, the first time that this is called."""
        if self.waits_to_start:
            self.petl.start(self, loss, batches, generator)
            self.started.fill_(1)

    def copy(self) -> Attached:
        """Return an independent copy on the same backbone, switched off."""
        # referred to, never copied
        memo: dict[int, Any] = {id(module): module for _, module in self.backbone.own_modules()}
        branches = [cast("Branch", branch) for branch in copy.deepcopy(self.branches, memo)]
        pairs = list(zip(self._sites, branches, strict=True))
        twin = Attached(self.backbone, self.petl, pairs, copy.deepcopy(self._own))
        twin.enabled = False
        twin._base = dict(self._base)
        if self.petl.starts_from_loss:
            twin.started.copy_(self.started)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Attached:
        """Return a copy on a copy of the backbone, which comes first: branches refer to it."""
        copy.deepcopy(self.backbone, memo)  # which may copy this module on the way
        if id(self) not in memo:
            twin = memo[id(self)] = type(self).__new__(type(self))
            twin.__setstate__(copy.deepcopy(vars(self), memo))  # type: ignore[no-untyped-call]  # nor for this
        return cast("Attached", memo[id(self)])

    def save(self, file: str | Path) -> None:
        """Write the module alone, with its name and options, as safetensors."""
        save_module(self, self.petl, Path(file))

    def detach(self) -> None:
        """Take every branch off its site and give the backbone its own tensors back."""
        self.unmerge()
        self.enabled = False
        for site in self._sites:
            site.attached = [
                (switch, branch) for switch, branch in site.attached if switch is not self._switch
            ]
        self.backbone.attached = [module for module in self.backbone.attached if module is not self]
        if self.backbone.carried is not None:
            self.backbone.carried.drop(self)

    def merge(self) -> None:
        """Fold the branches into the backbone's layers, so that they cost nothing; TypeError says why not.

        Tensors of the backbone that are trained themselves are in their place already.
        """
        if self._merged or not self._sites:
            return
        branches = [cast("Branch", branch) for branch in self.branches]
        self._merged = Merged(list(zip(self._sites, branches, strict=True)), self._switch)
        self.enabled = False

    def unmerge(self) -> None:
        """Put the backbone's own weights back, bit for bit, and switch the branches on again."""
        if self._merged:
            self._merged.undo()
            self._merged = None
            self.enabled = True


@contextmanager
def swapped(off: Attached, on: Attached) -> Iterator[None]:
    """Use one attached module instead of another for a while."""
    off.enabled = False
    on.enabled = True
    try:
        yield
    finally:
        on.enabled = False
        off.enabled = True


def block_index(site: str, num_blocks: int) -> int:
    """Return the block that a site such as ``block[3].mlp`` is in; 0 before, ``num_blocks`` after all."""
    if site.startswith("block["):
        return int(site[len("block[") : site.index("]")])
    return num_blocks if site in ("norm", "pooled") else 0
