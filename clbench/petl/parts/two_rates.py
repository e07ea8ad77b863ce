"""Let the factor B of low-rank updates B A learn faster than A (LoRA+).

S. Hayou, N. Ghosh, B. Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models", ICML 2024, arXiv
2402.12354. With one learning rate for both factors, wide networks learn hardly any features; B's is to be
larger, 16 times in the paper's experiments, for which A may need a smaller one than before.

As in the published code, B decays with its own rate, too, and DoRA's magnitudes learn as fast as B.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from clbench.options import LATER
from clbench.petl import Petl


@dataclass(frozen=True)
class TwoRates(Petl, ABC):
    """A module of low-rank updates."""

    faster: ClassVar[tuple[str, ...]]  # what B is called in the branches, and what else learns as fast

    b_rate_ratio: Annotated[float, Field(gt=0), LATER] = field(
        default=1.0,  # learning rate of B by that of A (LoRA+); 16 in its paper
        kw_only=True,
        repr=False,
    )

    def rate_ratio(self, tensor: str) -> float:
        """Return the ratio for B, and 1 for everything else."""
        return 1.0 if set(self.faster).isdisjoint(tensor.split(".")) else self.b_rate_ratio
