"""Ask a learner about pictures, and print what it says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from clbench.cli import said as laid_out
from clbench.cli.said import AllSaid, Said
from clbench.cli.terminal import console, say, show
from clbench.data.decode import ImageError
from clbench.deploy.answering import answers
from clbench.deploy.asking import TaskError
from clbench.deploy.finding import Found, find_pictures
from clbench.deploy.learner import Learner
from clbench.files import make_folder, write_text
from clbench.options import SpecError
from clbench.outside.visible import visible
from clbench.report.pictures.confusion import blocks, draw_confusion, shares_of_each
from clbench.report.pictures.picture import KINDS
from clbench.report.pictures.style import run_name

MOST_NAMED = 10  # unknown class folders


@dataclass(frozen=True)
class Question:
    """What was typed."""

    images: Sequence[Path]
    top: int = 1  # classes of each picture
    task: int | None = None  # from 1, as tables show them
    form: str = "table"  # csv, json
    out: Path | None = None  # a file for CSV or JSON
    figure: Path | None = None  # a file for the confusion picture


def predict_and_print(learner: Learner, question: Question) -> bool:
    """Print what the learner says of the pictures; return whether all of them could be read."""
    task = index_of_task(learner, question.task)
    numbers = range(len(learner.class_names)) if task is None else learner.history.tasks[task]
    names = [learner.class_names[number] for number in numbers]
    found = find_pictures(question.images, names)
    _check_figure(question.figure, found)
    for note in found.notes:
        say(note)
    said = _asked(learner, found, task, names, question.top)
    if not said.rows:
        raise ImageError(f"none of {len(found.files)} pictures could be read")
    _print(said, question, found)
    _tell_accuracy(said, found, names, is_table=question.form == "table")
    if said.labelled and (question.figure or question.form == "table"):
        file = question.figure or _beside(found.folders[0])
        _draw(said, learner, found, file)
        _tell(f"written: {file}", is_table=question.form == "table")
    return not said.unreadable


def index_of_task(learner: Learner, number: int | None) -> int | None:
    """Return the index of the task that was typed; TaskError where it is missing, or one too many."""
    is_told = learner.history.scenario == "task"
    if is_told and number is None:
        raise TaskError(
            "this learner was taught task by task, and has to be told the task of the pictures:"
            f" --task 1 to {learner.num_tasks}"
        )
    if number is None:
        return None
    if not is_told:
        raise TaskError("this learner chooses among all classes: leave --task out")
    if not 1 <= number <= learner.num_tasks:
        raise TaskError(f"--task {number}: it has learnt tasks 1 to {learner.num_tasks}")
    return number - 1


def _check_figure(file: Path | None, found: Found) -> None:
    if file is None:
        return
    if file.suffix.lower().removeprefix(".") not in KINDS:
        raise SpecError(f"--figure {file}: its name is to end in {', '.join(f'.{kind}' for kind in KINDS)}")
    if not found.folders:
        raise SpecError("--figure: no folder there is called as a class, so that nobody knows what is right")


def _asked(learner: Learner, found: Found, task: int | None, names: Sequence[str], top: int) -> AllSaid:
    """Ask about all files; tell at once, in a line each, what cannot be read."""
    own = set(names)  # of a task that is told; others are not among what is said
    count = top if task is None else len(learner.class_names)
    kind = "probability" if learner.strategy.gives_probabilities else "score"
    said = AllSaid(learner.path or Path(), [], {}, kind)
    screen = console(stderr=True)
    columns = (TextColumn("predicting"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        bar = bars.add_task("", total=len(found.files))
        for some in answers(learner, found.files, task=task):
            for index, error in some.unreadable.items():
                said.unreadable[found.files[index]] = str(error)
                screen.print(visible(str(error)), markup=False, soft_wrap=True)
            for index, highest in zip(some.indices, some.predictions.top(count), strict=True):
                of_own = [each for each in highest if each[0] in own][:top]
                said.rows.append(Said(found.files[index], of_own, found.classes[index]))
            bars.advance(bar, len(some.indices) + len(some.unreadable))
    return said


def _print(said: AllSaid, question: Question, found: Found) -> None:
    if question.form == "table":
        folders = [path for path in question.images if path.is_dir()]
        base = folders[0] if len(question.images) == 1 and folders else None
        if base:
            show(Text(f"{base}/", style="bold"))
        show(laid_out.table(said, base))
        return
    text = laid_out.csv(said) if question.form == "csv" else laid_out.as_json(said)
    if question.out is None:
        sys.stdout.write(text)
    else:
        make_folder(question.out.parent)
        write_text(question.out, text)
        _tell(f"written: {question.out}", is_table=True)


def _tell_accuracy(said: AllSaid, found: Found, names: Sequence[str], *, is_table: bool) -> None:
    if said.labelled:
        known = [name for name in names if name in found.known]
        _tell(laid_out.accuracy(said, known, len(names)), is_table=is_table)
    if found.unknown:
        shown = ", ".join([*found.unknown][:MOST_NAMED]) + (
            ", ..." if len(found.unknown) > MOST_NAMED else ""
        )
        num = sum(found.unknown.values())
        pictures = "1 picture" if num == 1 else f"{num:,} pictures"
        _tell(f"no classes of the learner, left out of the accuracy: {shown} ({pictures})", is_table=is_table)


def _tell(line: str, *, is_table: bool) -> None:
    """Print a line below a table; on stderr beside what programs read."""
    if is_table:
        console().print(Text(line), soft_wrap=True)
    else:
        say(line)


def _beside(folder: Path) -> Path:
    """Return a file for the picture: here, but not inside the folder that is asked about."""
    whole, here = folder.resolve(), Path.cwd()
    name = f"{whole.name or 'pictures'}-confusion.png"
    is_inside = here == whole or whole in here.parents
    return whole.parent / name if is_inside else Path(name)


def _draw(said: AllSaid, learner: Learner, found: Found, file: Path) -> None:
    """Draw which classes are taken for which, of those that occur."""
    number = {name: index for index, name in enumerate(learner.class_names)}
    label = [number[str(row.its_class)] for row in said.labelled]
    prediction = [number[row.top[0][0]] for row in said.labelled]
    shown = sorted({*label, *prediction})
    place = {each: index for index, each in enumerate(shown)}
    tasks = [[place[each] for each in task if each in place] for task in learner.history.tasks]
    spans = blocks(tasks)
    shares = shares_of_each(
        np.array([place[each] for each in label]), np.array([place[each] for each in prediction]), len(shown)
    )
    share = f"{100 * said.num_right / len(label):.1f} % of n = {len(label):,} pictures right"
    picture = draw_confusion(
        shares,
        [learner.class_names[each] for each in shown],
        spans if len(spans) > 1 else [],
        title=f"{run_name(learner.spec)} on {', '.join(folder.name or '.' for folder in found.folders)}",
        below=share,
    )
    make_folder(file.parent)
    picture.save(file)
