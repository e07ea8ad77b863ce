"""Make a stream of one of Avalanche's classic benchmarks: ``--stream avalanche:SplitMNIST``.

V. Lomonaco et al., "Avalanche: an end-to-end library for continual learning", CVPR workshops 2021,
arXiv:2104.00405. MIT licence; the data sets have their own terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from clbench.errors import UserError
from clbench.streams import Places, Source, Stream, register


@register("avalanche", argument="benchmark")
@dataclass
class AvalancheClassic(Stream):
    """The benchmark's own tasks and class order; class-incremental benchmarks only."""

    default_augment: ClassVar[str] = "crop"  # some benchmarks hold digits or letters, never to be mirrored

    tasks: str = "stream"
    benchmark: str = ""  # the name of a class-incremental benchmark of avalanche.benchmarks.classic
    n_experiences: Annotated[int, Field(ge=0)] = 0  # 0: the benchmark's default, or 5 where it has none
    benchmark_seed: Annotated[int, Field(ge=0)] = 0  # the seed by which the benchmark draws its class order
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels; 0: as the first image, at most 256

    def load(self, places: Places) -> Source:
        """Return the images of the benchmark's experiences."""
        from clbench.avalanche.benchmarks import read_classic

        if not self.benchmark:
            raise UserError("stream avalanche needs a benchmark: --stream avalanche:SplitMNIST")
        return read_classic(
            self.benchmark,
            places,
            num_experiences=self.n_experiences,
            seed=self.benchmark_seed,
            stored_size=self.stored_size,
        )
