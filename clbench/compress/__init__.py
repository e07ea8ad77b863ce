"""Define what a token compressor is: a recipe that lets a transformer go on with fewer tokens.

A compressor file holds a dataclass of options with one method, ``steps``, that says which step goes to which
site. Everything else (switch, count, refuse, detach) is the same for all and done by ``Compressed``.

Modules at the sites see what there is: a branch beside a layer computes with the tokens that the layer got,
one beside a whole block with the block's tokens grouped as the block has grouped them. What needs each token
in its place, such as a convolution over the grid of patches, is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.registry import Registry

if TYPE_CHECKING:
    from clbench.backbones.backbone import Backbone
    from clbench.backbones.sites import Branch, Site, TokenStep
    from clbench.compress.compressed import Compressed
    from clbench.compress.parts.passing import Passing


@dataclass(frozen=True)
class Compressor(ABC):
    """A compressor's options, and what it puts where."""

    @abstractmethod
    def steps(self, backbone: Backbone, passing: Passing) -> Iterator[tuple[Site, TokenStep]]:
        """Yield each step with its site, none where nothing is removed; ``passing`` is what they share.

        It is begun anew by every pass. A UserError says in one line why a backbone cannot be compressed.
        """

    @abstractmethod
    def tokens_after(self, num_tokens: int, num_prefix: int, depth: int) -> list[int]:
        """Return the number of tokens behind each block, of so many before the first, the prefix included."""

    def degrees(self, depth: int) -> list[Compressor]:
        """Return these options at several degrees, from the least on, for a survey of what each is worth."""
        return [self]

    def during(self, epoch: int) -> Compressor:
        """Return the options of an epoch (0-based) of the first task, where they change meanwhile."""
        return self

    @property
    def tuned_at(self) -> int:
        """The degree, as plug-ins count it, that what learns with these options is tuned at."""
        return 0

    def misfit_with(self, learnt: Compressor | None) -> str:
        """Say why these options do not go with what a learner learns at; empty where they do."""
        return ""

    @property
    def plugin_file(self) -> str:
        """The file of a plug-in that repairs the backbone; empty for none."""
        return ""

    def repairs(self, backbone: Backbone, plugin: bytes, source: str) -> Iterator[tuple[Site, Branch]]:
        """Yield what is to be folded into the backbone's weights, made of what a plug-in's file holds."""
        return iter(())

    def compress(
        self, backbone: Backbone, plugin: bytes | None = None, *, is_folded: bool = False
    ) -> Compressed:
        """Return the backbone's compressed form, switched on; a ``plugin`` that is known is not read.

        ``is_folded``: it is in the backbone's weights already.
        """
        from clbench.backbones.restoring import unchanged_if_it_fails
        from clbench.compress.compressed import Compressed

        with unchanged_if_it_fails(backbone):
            return Compressed(backbone, self, plugin, is_folded=is_folded)


registry: Registry[Compressor] = Registry("compress", __name__, Compressor)
register, get, names = registry.register, registry.get, registry.names

__all__ = ["Compressor", "get", "names", "register"]
