"""Hold a backbone's compressed form: its switch, its degree, and what it does to the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from clbench.backbones.backbone import NEEDS_ALL_TOKENS, Backbone
from clbench.backbones.sites import Branch, Site, Switch, TokenStep
from clbench.compress import Compressor
from clbench.compress.parts.passing import Passing
from clbench.compress.parts.places import CompressError, num_tokens_of
from clbench.outside.reading import read_bytes
from clbench.petl.merging import Merged


class Compressed:
    """Steps at the sites of one backbone, and a plug-in in its weights.

    ``enabled`` puts them in and takes them out at once; out, the backbone is bit for bit what it was. With
    ``degree`` it goes on with other options of the same compressor, as while a keep rate falls.
    """

    def __init__(
        self,
        backbone: Backbone,
        compressor: Compressor,
        plugin: bytes | None = None,
        *,
        is_folded: bool = False,
    ) -> None:
        """Put the steps in; ``plugin`` is what the compressor's plug-in file holds, where that is known.

        ``is_folded``: it is in the backbone's weights already.
        """
        if backbone.compressed:
            raise CompressError("the backbone is compressed already")
        self.compressor = self._degree = compressor
        self.plugin = _plugin_of(compressor) if plugin is None or not compressor.plugin_file else plugin
        self._backbone = backbone
        self._is_on = False
        self._switch = Switch()
        self._steps = self._made(compressor)
        self._is_to_move = bool(self._steps)  # whatever the degree is at first
        self._repairs: list[tuple[Site, Branch]] = []
        if self.plugin is not None and not is_folded:
            self._repairs = list(compressor.repairs(backbone, self.plugin, compressor.plugin_file))
        for _, branch in self._repairs:
            branch.to(backbone.device).eval().requires_grad_(False)
        self._merged: Merged | None = None
        backbone.compressed.append(self)
        self.enabled = True

    @property
    def enabled(self) -> bool:
        """Whether the backbone goes on with fewer tokens."""
        return self._is_on

    @enabled.setter
    def enabled(self, on: bool) -> None:
        if on == self._is_on:
            return
        if on:
            if self.moves_tokens:
                self._refuse_misfits()
            self._fold()
        else:
            self._unfold()
        self._put(on)
        self._is_on = on

    @property
    def degree(self) -> Compressor:
        """The options that it computes with now."""
        return self._degree

    @degree.setter
    def degree(self, compressor: Compressor) -> None:
        if compressor == self._degree:
            return
        steps = self._made(compressor)
        if self._is_on and steps:
            self._refuse_misfits()
        self._put(on=False)
        self._steps, self._degree = steps, compressor
        self._put(self._is_on)

    @property
    def moves_tokens(self) -> bool:
        """Whether any token is merged or dropped, now or at the degree that it came with."""
        return self._is_to_move or bool(self._steps)

    @property
    def first_block(self) -> int:
        """Index of the first block that is computed in another way; the number of blocks where none is."""
        blocks = [
            block for block in self._backbone.blocks if any(site.tokens for site in block.sites.values())
        ]
        return min((block.index for block in blocks), default=len(self._backbone.blocks))

    @property
    def token_counts(self) -> list[int]:
        """The number of tokens behind each block."""
        num_tokens, num_prefix = num_tokens_of(self._backbone)
        return self._degree.tokens_after(num_tokens, num_prefix, len(self._backbone.blocks))

    def state_key(self) -> str:
        """Return a digest of the options and of the plug-in."""
        total = hashlib.sha256(repr(self._degree).encode())
        total.update(self.plugin or b"")
        return total.hexdigest()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the backbone compute with all its tokens for a while; what is in the weights stays there."""
        was_on = self._is_on
        self._put(on=False)
        try:
            yield
        finally:
            self._put(was_on)

    def detach(self) -> None:
        """Take everything off and forget it."""
        self.enabled = False
        self._backbone.compressed.remove(self)

    def _made(self, compressor: Compressor) -> dict[str, TokenStep]:
        """Return the steps by the names of their sites, those of one site in a chain."""
        made: dict[str, list[TokenStep]] = {}
        for site, step in compressor.steps(self._backbone, Passing()):
            made.setdefault(site.name, []).append(step)
        return {name: steps[0] if len(steps) == 1 else Chain(steps) for name, steps in made.items()}

    def _put(self, on: bool) -> None:
        for name, step in self._steps.items():
            self._backbone.site(name).tokens = step if on else None

    def _fold(self) -> None:
        """Put the plug-in into the weights; beside them where they are of few bits already."""
        if not self._repairs:
            return
        try:
            self._merged = Merged(self._repairs, self._switch, is_below=True)
        except TypeError:
            for site, branch in self._repairs:
                site.attached.append((self._switch, branch))

    def _unfold(self) -> None:
        if self._merged is not None:
            self._merged.undo()
            self._merged = None
        for site, branch in self._repairs:
            site.attached = [pair for pair in site.attached if pair[1] is not branch]

    def _refuse_misfits(self) -> None:
        for module in self._backbone.attached:
            if module.needs_all_tokens:
                raise CompressError(f"{module.name} {NEEDS_ALL_TOKENS}")


class Chain(TokenStep):
    """Several steps at one site, one after another."""

    def __init__(self, steps: list[TokenStep]) -> None:
        """Take them in their order."""
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def carried(self, inputs: Tensor) -> Tensor:
        """Return what became of the layer's input, by all of them."""
        for step in self.steps:
            inputs = cast("TokenStep", step).carried(inputs)
        return inputs

    def forward(self, output: Tensor) -> Tensor:
        """Return the site's new output."""
        for step in self.steps:
            output = step(output)
        return output


def _plugin_of(compressor: Compressor) -> bytes | None:
    return read_bytes(Path(compressor.plugin_file)) if compressor.plugin_file else None
