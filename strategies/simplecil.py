"""Classify by class means of frozen features: the baseline without any training (SimpleCIL, NCM).

D.-W. Zhou, Z.-W. Cai, H.-J. Ye, D.-C. Zhan, Z. Liu, "Revisiting Class-Incremental Learning with Pre-Trained
Models: Generalizability and Adaptivity are All You Need", IJCV 2024, arXiv 2303.07338. A class's prototype is
the mean of its images' features, the score the cosine between an image's features and the prototype. The
result depends neither on the number of tasks nor on their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clbench.learning.closed_form import ClosedForm, Rule
from clbench.learning.prototypes import Prototypes
from clbench.strategies import register


@register("simplecil", petl="linear")
@dataclass
class SimpleCIL(ClosedForm):
    """Cosine to the mean of raw, un-normalised features; nothing is trained."""

    part: ClassVar[str] = "prototypes"

    def begin(self, width: int) -> Prototypes:
        """Keep a mean for each class."""
        self.prototypes = Prototypes(width)
        return self.prototypes

    def rule(self) -> Rule:
        """Return the cosines."""
        return self.prototypes.cosines
