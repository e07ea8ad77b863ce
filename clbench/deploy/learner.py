"""Do with what was learnt what it is for: ask it about pictures, ship it, let it learn on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clbench.data.tasks import Places
from clbench.deploy.asking import check_task, scores_of
from clbench.deploy.bundle import write_bundle
from clbench.deploy.graph import graph_of
from clbench.deploy.learnt import Learnt
from clbench.deploy.onnx_file import OPSET, OnnxReport, Where, export_onnx
from clbench.deploy.pictures import Pictures, read_pictures
from clbench.deploy.predictions import Predictions
from clbench.records.progress import Progress
from clbench.records.record import Record


@dataclass(eq=False, repr=False)
class Learner(Learnt):
    """What a run has learnt, and what can be done with it. ``clbench.load`` makes one."""

    def __repr__(self) -> str:
        """Say what it is, in one line."""
        names = (self.spec.strategy.name, self.spec.petl.name, self.backbone.name)
        tasks = f"{self.num_tasks} task{'s' if self.num_tasks > 1 else ''}"
        form = f" as {self.spec.deployed.name}" if self.spec.deployed else ""
        return f"<Learner {' · '.join(names)}{form}: {tasks}, {len(self.class_names)} classes>"

    def predict(
        self, images: Pictures, *, task: int | None = None, batch_size: int | None = None
    ) -> Predictions:
        """Say which class each picture shows.

        Args:
            images: A path, a PIL image, an array (H, W), (H, W, C) or (N, H, W, C), a tensor (C, H, W) or
                (N, C, H, W), or a list of such; of any size, grey, RGB or with alpha, read as a stream would.
            task: Index, from 0, of the task that the pictures are of: needed after task-incremental learning,
                where only its classes are chosen among, and not allowed otherwise.
            batch_size: Pictures seen at a time; by default as many as the run evaluated at a time.
        """
        check_task(self, task)
        size = self.history.height, self.history.width
        at_a_time = self.spec.run.eval_batch_size if batch_size is None else batch_size
        pieces = [scores_of(self, pixels, task) for pixels in read_pictures(images, size, at_a_time)]
        scores = torch.cat(pieces) if pieces else torch.zeros(0, len(self.class_names))
        return Predictions(scores, self.class_names, self.strategy.gives_probabilities)

    def learn(
        self,
        stream: str,
        *,
        settings: Mapping[str, Mapping[str, Any]] = {},
        out: Path | str = "runs",
        places: Places | None = None,
        progress: Progress | None = None,
    ) -> Record:
        """Learn further tasks with the same strategy, into a new record; this learner stays as it is.

        Args:
            stream: What is to be learnt, such as ``folder:PATH``. Classes whose names are known keep their
                numbers, new ones come behind them. It is one task unless its options say otherwise.
            settings: Options that differ from before, by section: ``{"strategy": {"epochs": 3}}``.
            out: Where the new record goes; ``clbench.load`` opens it.
            places: Where data may be found, those of earlier tasks among them: these are tested again.
            progress: Hears of every stage.
        """
        from clbench.deploy.learning_on import learn_on  # what runs and reports: no prediction needs it

        return learn_on(self, stream, settings=settings, out=out, places=places, progress=progress)

    def save(
        self,
        folder: Path | str,
        *,
        without_backbone: bool = False,
        with_exemplars: bool = False,
        predict_only: bool = False,
    ) -> Path:
        """Write a bundle: a folder that ``clbench.load`` makes the same learner from, on any machine.

        Args:
            folder: Where; there must be nothing there yet.
            without_backbone: Leave the backbone's own weights out: they are named by their hash, and have to
                be there where the bundle is loaded.
            with_exemplars: Take the training pictures along that a memory holds, to learn on from.
            predict_only: Leave out whatever only learning on asks for: importances, sums of a regression.
        """
        return write_bundle(
            self,
            Path(folder),
            without_backbone=without_backbone,
            with_exemplars=with_exemplars,
            predict_only=predict_only,
        )

    def variant(self, name: str, *, places: Places | None = None) -> Learner:
        """Return a learner that predicts in another form, as it would be deployed; this one stays as it is.

        Args:
            name: Such as ``adalog:bits=4``. One that the run predicted with is as it was when its last task
                had ended; any other is made now, and calibrated on training images if it looks at some.
            places: Where training images may be found.
        """
        from clbench.deploy.variant import as_variant

        return Learner(**vars(as_variant(self, name, places or Places())))

    def module(self, *, task: int | None = None) -> nn.Module:
        """Return the prediction as a plain module: normalised pixels (B, 3, S, S) to scores (B, C).

        It holds the tensors that predicting needs, with modules merged into the backbone where they merge;
        this learner stays as it is. ``torch.export.export`` takes it, with any number of images.

        Args:
            task: Index of the task among whose classes is chosen, after task-incremental learning.
        """
        return graph_of(self, task)

    def export_onnx(
        self, file: Path | str, *, preprocessing: Where, task: int | None = None, opset: int = OPSET
    ) -> OnnxReport:
        """Write an ONNX file that predicts as this learner does, and report how closely; see ``OnnxReport``.

        Nothing is written if onnxruntime does not agree with ``predict`` on sixteen generated pictures.

        Args:
            file: Where; there must be nothing there yet.
            preprocessing: ``inside``: the input is ``pixels`` (B, H, W, 3), uint8, of the size that the
                learner stores. ``outside``: it is ``images`` (B, 3, S, S), float32, cut, resized, normalised.
            task: Index of the task among whose classes is chosen, after task-incremental learning.
            opset: Of ONNX's operators, 18 to 23.
        """
        return export_onnx(self, Path(file), preprocessing=preprocessing, task=task, opset=opset)
