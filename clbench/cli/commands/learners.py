"""Use what was learnt: ask it about pictures, let it learn on, ship it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clbench.cli import terminal
from clbench.cli.parameters import (
    BackboneAgain,
    CompressAgain,
    DataDir,
    Device,
    Learnt,
    Loggers,
    Option,
    Out,
    PetlAgain,
    QuantAgain,
    Settings,
    StrategyAgain,
    UsageError,
    Weights,
    check_word,
    places_in,
)

if TYPE_CHECKING:
    from clbench.deploy.learner import Learner
    from clbench.deploy.onnx_file import Where


def predict(
    path: Learnt,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER")],
    top: Annotated[int, Option(min=1, metavar="N", help="Show the N highest classes of each.")] = 1,
    task: Annotated[
        int | None,
        Option(metavar="N", help="If taught task by task: the pictures' task, from 1 (in Python from 0)."),
    ] = None,
    form: Annotated[str, Option("--format", metavar="NAME", help="table, csv or json.")] = "table",
    out: Annotated[Path | None, Option(metavar="FILE", help="Write csv or json there.")] = None,
    figure: Annotated[
        Path | None, Option(metavar="FILE", help="Of class folders: the picture of what is taken for what.")
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    strategy: StrategyAgain = None,
    petl: PetlAgain = None,
    backbone: BackboneAgain = None,
    quant: QuantAgain = None,
    compress: CompressAgain = None,
    weights: Weights = None,
) -> None:
    """Say which class each picture shows; of a folder, all below it.

    Where folders in it are called as classes are, also how many pictures are right, and a picture of which
    class is taken for which. The exit status is 1 if some pictures cannot be read.
    """
    from clbench.cli.early import header, learnt_spec
    from clbench.deploy.finding import check_named

    check_word("--format", form, ("table", "csv", "json"))
    if out is not None and form == "table":
        raise UsageError("--out goes with --format csv or --format json")
    spec = learnt_spec(path)
    check_named(images)
    terminal.say(header(spec))
    from clbench.cli.predicting import Question, predict_and_print

    learner = _loaded(path, device, data_dir, strategy, petl, backbone, quant, compress, weights)
    question = Question(images, top, task, form, out, figure)
    if not predict_and_print(learner, question):
        raise typer.Exit(1)


def learn(
    context: typer.Context,
    path: Learnt,
    stream: Annotated[str, Option(metavar="NAME", help="What is to be learnt, as folder:PATH; one task.")],
    settings: Settings = None,
    device: Device = None,
    data_dir: DataDir = None,
    out: Out = Path("runs"),
    logger: Loggers = None,
    strategy: StrategyAgain = None,
    petl: PetlAgain = None,
    backbone: BackboneAgain = None,
    quant: QuantAgain = None,
    compress: CompressAgain = None,
    weights: Weights = None,
) -> None:
    """Let a run or bundle learn on, into a new record; it stays as it is.

    Classes whose names are known keep their places, new ones come behind them. The strategy goes on with the
    options that it had, but for those of --set strategy, stream and run.
    """
    from clbench.cli.arguments import learning_on
    from clbench.cli.early import header, learnt_spec

    spec = learnt_spec(path)
    sections, kind = learning_on(strategy or spec.strategy.name, stream, device, settings or [])
    places = places_in(data_dir)
    terminal.say(header(spec, stream=kind))
    from clbench.cli.learning import Lesson, learn_and_print

    learner = _loaded(path, "cpu", data_dir, strategy, petl, backbone, quant, compress, weights)
    learn_and_print(learner, Lesson(stream, sections, out, places, tuple(logger or ()), context.obj))


def export(
    path: Learnt,
    out: Annotated[Path, Option(metavar="PATH", help="The bundle's folder, or a file for onnx; new.")],
    form: Annotated[str, Option("--format", metavar="NAME", help="bundle or onnx.")] = "bundle",
    variant: Annotated[
        str | None, Option(metavar="NAME[:K=V,...]", help="In another form, as in adalog:bits=4.")
    ] = None,
    without_backbone: Annotated[
        bool, Option("--without-backbone", help="Name the backbone's own weights by their hash only.")
    ] = False,
    exemplars: Annotated[
        bool, Option("--exemplars", help="Take training pictures in its memory along, to learn on from.")
    ] = False,
    predict_only: Annotated[
        bool, Option("--predict-only", help="Leave out what only learning on asks for; smaller.")
    ] = False,
    preprocessing: Annotated[
        str | None, Option(metavar="WHERE", help="Of onnx: inside or outside the graph [inside].")
    ] = None,
    task: Annotated[
        int | None, Option(metavar="N", help="Of onnx, taught task by task: whose classes, from 1.")
    ] = None,
    data_dir: DataDir = None,
    strategy: StrategyAgain = None,
    petl: PetlAgain = None,
    backbone: BackboneAgain = None,
    quant: QuantAgain = None,
    compress: CompressAgain = None,
    weights: Weights = None,
) -> None:
    """Write what was learnt as a bundle to take along, or as ONNX.

    A bundle is a folder that needs nothing beside it, and holds no training pictures unless asked.
    """
    from clbench.cli.early import learnt_spec

    check_word("--format", form, ("bundle", "onnx"))
    if form == "bundle" and (preprocessing is not None or task is not None):
        raise UsageError("--preprocessing and --task go with --format onnx")
    if form == "onnx" and (without_backbone or exemplars or predict_only):
        raise UsageError("--without-backbone, --exemplars and --predict-only go with --format bundle")
    if exemplars and predict_only:
        raise UsageError("--exemplars are taken along to learn on; --predict-only leaves that out")
    word = check_word("--preprocessing", preprocessing or "inside", ("inside", "outside"))
    learnt_spec(path)
    from clbench.cli.exporting import Wanted, export_bundle, export_onnx
    from clbench.cli.predicting import index_of_task

    learner = _loaded(path, "cpu", data_dir, strategy, petl, backbone, quant, compress, weights)
    if variant is not None:
        learner = learner.variant(variant, places=places_in(data_dir))
    if form == "onnx":
        terminal.show(export_onnx(learner, out, cast("Where", word), index_of_task(learner, task)))
    else:
        wanted = Wanted(without_backbone, exemplars, predict_only)
        terminal.show(export_bundle(learner, out, wanted))


def _loaded(
    path: Path,
    device: str | None,
    data_dir: Path | None,
    strategy: str | None,
    petl: str | None,
    backbone: str | None,
    quant: str | None,
    compress: str | None,
    weights: Path | None,
) -> Learner:
    from clbench.deploy.loading import load

    return load(
        path,
        device=device or "auto",
        places=places_in(data_dir),
        strategy=strategy,
        petl=petl,
        backbone=backbone,
        quant=quant,
        compress=compress,
        weights=weights,
    )
