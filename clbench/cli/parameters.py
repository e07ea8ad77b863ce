"""Name the options that several commands take, and check what they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clbench.options import SpecError
from clbench.registry import did_you_mean

if TYPE_CHECKING:
    from clbench.data.tasks import Places

# What is wrong with a command line as such; BadParameter is the one such error that typer exports.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
Option = typer.Option
DataDir = Annotated[Path | None, Option(metavar="DIR", envvar="CLBENCH_DATA", help="Where data sets lie.")]
Device = Annotated[str | None, Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps [auto].")]
Loggers = Annotated[
    list[str] | None, Option("--logger", metavar="NAME", help="Tell tensorboard or wandb, too; repeatable.")
]
Out = Annotated[Path, Option(metavar="DIR", help="Where records go.")]
Settings = Annotated[
    list[str] | None, Option("--set", metavar="KEY=VALUE", help="An option, as in strategy.epochs=3.")
]
# of what a learner is opened with
Learnt = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE")]
AGAIN = "FILE.py:NAME"
StrategyAgain = Annotated[
    str | None, Option("--strategy", metavar=AGAIN, help="Its strategy, where that is in a file of yours.")
]
PetlAgain = Annotated[str | None, Option("--petl", metavar=AGAIN, help="The same of its module.")]
BackboneAgain = Annotated[str | None, Option("--backbone", metavar=AGAIN, help="The same of its backbone.")]
CompressAgain = Annotated[
    str | None, Option("--compress", metavar=AGAIN, help="The same of its token compressor.")
]
QuantAgain = Annotated[str | None, Option("--quant", metavar=AGAIN, help="The same of its quantiser.")]
Weights = Annotated[
    Path | None, Option(metavar="FILE", help="The backbone's weights, if they are not where they were.")
]


def places_in(data_dir: Path | None) -> Places:
    """Return where data are looked for; DataNotFoundError if there is no such folder."""
    from clbench.data.tasks import DataNotFoundError, Places

    if data_dir is not None and not data_dir.is_dir():
        raise DataNotFoundError(f"--data-dir (or CLBENCH_DATA) {data_dir}: there is no such folder")
    return Places(data_dir)


def check_word(option: str, word: str, allowed: Sequence[str]) -> str:
    """Return the word typed after an option; SpecError if it is none of those allowed."""
    if word not in allowed:
        raise SpecError(f"{option} {word!r}{did_you_mean(word, allowed)} (allowed: {', '.join(allowed)})")
    return word
