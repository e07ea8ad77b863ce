"""Hold a module that is attached to a backbone: its parameters, its switch, its copies and its merge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Backbone
from clbench.backbones.sites import Branch, Site, Switch
from clbench.petl import Petl
from clbench.petl.merging import Merged


class Attached(nn.Module):
    """Branches at the sites of one backbone, and trained copies of some of its own tensors.

    ``parameters()`` and ``state_dict()`` are the module's alone; the backbone is never part of them. Several
    can be attached to one backbone. ``enabled`` switches a whole set at once; with all of them off the
    backbone is bit for bit what it was.
    """

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
        self.branches = nn.ModuleList([branch for _, branch in branches]).to(backbone.device)
        shared = {id(module): module for _, branch in branches for module in branch.shared}
        self.shared = nn.ModuleList(shared.values()).to(backbone.device)
        self._sites = [site for site, _ in branches]
        self._switch = Switch()
        self._switch.on = False  # until everything is in its place
        self._backbone = (backbone,)  # in a tuple, so that the backbone is no part of this module
        for site, branch in branches:
            site.attached.append((self._switch, branch))
        self._base: dict[str, Tensor] = {name: _tensor(backbone, name) for name in tuned}
        self._own: dict[str, Tensor] = tuned
        for name, tensor in tuned.items():
            key = name.replace(".", "/")  # a registered name must not hold a dot
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(key, tensor)
            else:
                self.register_buffer(key, tensor)
        if petl.starts_from_loss:
            self.register_buffer("started", torch.zeros(()))  # in the state: a resumed run starts no more
        self._merged: Merged | None = None
        super().train(False)  # as the backbone is, whose own mode stays what it was: dropout starts off
        self.enabled = True

    @property
    def backbone(self) -> Backbone:
        """What the module is attached to."""
        return self._backbone[0]

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
            _install(self.backbone, name, tensor)

    @property
    def num_parameters(self) -> int:
        """Number of the module's own parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def train(self, mode: bool = True) -> Attached:
        """Set training mode; a backbone that is trained itself follows, any other does not."""
        super().train(mode)
        if self.petl.trains_backbone:
            self.backbone.train(mode)
        return self

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
        memo = {id(module): module for module in self.backbone.modules()}  # referred to, never copied
        branches = [cast("Branch", branch) for branch in copy.deepcopy(self.branches, memo)]
        pairs = list(zip(self._sites, branches, strict=True))
        twin = Attached(self.backbone, self.petl, pairs, copy.deepcopy(self._own))
        twin.enabled = False
        twin._base = dict(self._base)
        if self.petl.starts_from_loss:
            twin.started.copy_(self.started)
        return twin

    def save(self, file: str | Path) -> None:
        """Write the module alone, with its name and options, as safetensors."""
        from clbench.petl.saved import save_attached

        save_attached(self, Path(file))

    def detach(self) -> None:
        """Take every branch off its site and give the backbone its own tensors back."""
        self.unmerge()
        self.enabled = False
        for site in self._sites:
            site.attached = [
                (switch, branch) for switch, branch in site.attached if switch is not self._switch
            ]

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


def trained_copies(backbone: Backbone, names: Sequence[str]) -> dict[str, Tensor]:
    """Return trainable copies of the backbone's named parameters, and plain copies of its named buffers."""
    copies: dict[str, Tensor] = {}
    for name in names:
        tensor = _tensor(backbone, name)
        clone = tensor.detach().clone()
        copies[name] = nn.Parameter(clone) if isinstance(tensor, nn.Parameter) else clone
    return copies


def _tensor(backbone: Backbone, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    return cast("Tensor", getattr(backbone.get_submodule(path), attribute))


def _install(backbone: Backbone, name: str, tensor: Tensor) -> None:
    path, _, attribute = name.rpartition(".")
    owner = backbone.get_submodule(path)
    slots = owner._parameters if attribute in owner._parameters else owner._buffers
    cast("dict[str, Tensor | None]", slots)[attribute] = tensor
