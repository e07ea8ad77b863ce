"""Write a run's curves, figures, options and metrics for Weights & Biases: https://wandb.ai.

The files lie in the record's folder ``wandb``. Where no key is known, or with WANDB_MODE=offline, nothing
leaves the machine; ``wandb sync RECORD/wandb/offline-run-*`` sends it later. WANDB_PROJECT and WANDB_ENTITY
count as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import wandb

from clbench.errors import UserError
from clbench.loggers.logger import Axis, Sink
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.report.groups import single


class WandbError(UserError, RuntimeError):
    """Weights & Biases that cannot be reached, or refuse."""


class WeightsAndBiases(Sink):
    """One run of Weights & Biases; a resumed one goes on under its identifier."""

    def open(self, spec: RunSpec, folder: Path) -> None:
        """Begin, or go on with the newest run that lies in the folder; ask nobody for a key."""
        settings = wandb.setup().settings
        lacks_key = settings.mode == "online" and not wandb.login(prompt=False, verify=False)
        begun = sorted((folder / "wandb").glob("*run-*-*"))
        try:
            self.run = wandb.init(
                dir=folder,
                project=settings.project or "clbench",
                name=folder.name,
                group=single(Record(folder, spec)).file_stem,
                config=spec.to_dict(),
                id=begun[-1].name.rpartition("-")[2] if begun else None,
                resume="allow" if begun else None,
                mode="offline" if lacks_key else None,  # None: as WANDB_MODE says
                settings=wandb.Settings(console="off", quiet=True),
            )
        except wandb.Error as error:
            raise WandbError(f"--logger wandb: {error}; WANDB_MODE=offline keeps it here") from error
        for axis, curves in (("step", "train/*"), ("task", "accuracy/*")):
            self.run.define_metric(axis, hidden=True)
            self.run.define_metric(curves, step_metric=axis)

    def scalars(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Log a point of each curve."""
        self.run.log({axis: place, **values})

    def finish(self, metrics: Mapping[str, float], figures: Mapping[str, Path]) -> None:
        """Put the metrics into the summary and log the figures."""
        self.run.summary.update(dict(metrics))
        self.run.log({name: wandb.Image(str(file)) for name, file in figures.items()})

    def close(self, *, is_finished: bool) -> None:
        """Say how the run ended, and wait until everything is written."""
        self.run.finish(exit_code=0 if is_finished else 1)
