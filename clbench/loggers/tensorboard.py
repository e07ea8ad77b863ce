"""Write a run's curves, figures, options and metrics for TensorBoard: ``tensorboard --logdir runs``.

M. Abadi et al., "TensorFlow: Large-Scale Machine Learning on Heterogeneous Distributed Systems", 2016,
arXiv:1603.04467. The files lie in the record's folder ``tensorboard``; a resumed run adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from clbench.loggers.logger import Axis, Sink
from clbench.records.spec import RunSpec


class TensorBoard(Sink):
    """The event files of one run."""

    def open(self, spec: RunSpec, folder: Path) -> None:
        """Begin a new event file."""
        self.spec = spec
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Write a point of each curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, place)

    def finish(self, metrics: Mapping[str, float], figures: Mapping[str, Path]) -> None:
        """Write the figures, and the options with the metrics for the table of hyper-parameters."""
        for name, file in figures.items():
            pixels_HWC = np.asarray(Image.open(file).convert("RGB"))
            self.writer.add_image(name, pixels_HWC, dataformats="HWC")
        options = {
            f"{section}.{option}": value
            for section, table in self.spec.to_dict().items()
            for option, value in table.items()
        }
        self.writer.add_hparams(options, dict(metrics), run_name=".")

    def close(self, *, is_finished: bool) -> None:
        """Close the file."""
        self.writer.close()
