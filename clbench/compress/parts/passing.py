"""Hold what one forward pass knows of its tokens, from one site to the next.

It is begun anew where the tokens are made and dropped where the features are, so that a pass that broke off
leaves nothing to the next.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from clbench.backbones.sites import TokenStep


class Passing:
    """The state of the pass that is being computed."""

    def __init__(self) -> None:
        """Know nothing."""
        self.begin()

    def __reduce__(self) -> tuple[type[Passing], tuple[()]]:
        """Let a copy of a backbone begin anew: a pass that broke off is none of its own."""
        return type(self), ()

    def begin(self) -> None:
        """Forget the pass before."""
        # (B, N, 1), of float32 or more: how many tokens of the image are in each; None: one
        self.sizes: Tensor | None = None
        self.seen: Tensor | None = None  # what the attention of the block left for the step behind it
        self.regroup: Callable[[Tensor], Tensor] | None = None  # what the block did with its tokens


class Bound(TokenStep):
    """A step of one compressor, which shares the state of a pass with the others."""

    def __init__(self, passing: Passing) -> None:
        """Take the state that they share."""
        super().__init__()
        self.passing = passing


class Begin(Bound):
    """Where tokens come to be, or have become features: the pass begins, or is over."""

    def forward(self, output: Tensor) -> Tensor:
        """Return it as it is."""
        self.passing.begin()
        return output


class Carry(Bound):
    """Around a block: what a branch beside it sees is grouped as the block has grouped its tokens."""

    def carried(self, inputs: Tensor) -> Tensor:
        """Return the block's input (B, N, D) with the tokens of its output."""
        return inputs if self.passing.regroup is None else self.passing.regroup(inputs)

    def forward(self, output: Tensor) -> Tensor:
        """Return it as it is; the next block has groups of its own."""
        self.passing.regroup = None
        return output
