"""Round to a scale times powers of 2 or sqrt 2: fine steps next to 0, where an attention's probabilities lie.

With k steps an octave,

    c = round(-k log2(x / s)),    x^ = s 2^(-c / k) if c < L, else 0.

k = 1 is the log2 quantiser of FQ-ViT (Y. Lin et al., IJCAI 2022, arXiv 2111.13824), which has s = 1. k = 2
is the log-sqrt2 quantiser of RepQ-ViT (Z. Li et al., ICCV 2023, arXiv 2212.08254), where the same number is
written s 2^(-ceil(c / 2)), times sqrt 2 for an odd c: a shift, and a scale for each last bit of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.quant.parts.rounding import Rounding


class Logarithmic(Rounding):
    """A scale s > 0 and the steps k an octave, of shapes that broadcast to the values', which are >= 0.

    What lies beyond the last level is 0, as in the published codes: so there are L + 1 values, and zero has a
    code of its own, L.
    """

    scale: Tensor
    steps: Tensor

    def __init__(self, bits: int, *, scale: Tensor, steps: Tensor) -> None:
        """Hold scale and steps."""
        super().__init__(bits, scale=scale, steps=steps)

    @property
    def num_codes(self) -> int:
        """Number of codes, L + 1."""
        return self.num_levels + 1

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes, int64."""
        return self._places(values).to(torch.int64)

    def decoded(self, codes: Tensor) -> Tensor:
        """Return s 2^(-c / k), and 0 for the last code."""
        return (self.scale * torch.exp2(-codes / self.steps)).mul_(codes < self.num_levels)

    def rounded(self, values: Tensor) -> Tensor:
        """Return the same without integers in between."""
        return self.decoded(self._places(values))

    def reaches(self, values: Tensor) -> Tensor:
        """Tell which values lie on the stretch of the levels: neither above s, nor beyond the last one."""
        return (values <= self.scale) & (self._places(values) < self.num_levels)

    def _places(self, values: Tensor) -> Tensor:
        """Return the codes."""
        places = torch.round(-self.steps * torch.log2(values.clamp_min(0) / self.scale))
        return places.clamp_(0, self.num_levels)  # infinite for 0
