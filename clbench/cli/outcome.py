"""Lay out what came of a run, of several, or of a comparison, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from clbench import report, strategies
from clbench.evaluate.catalogue import find_all
from clbench.evaluate.former_names import current_name
from clbench.options import SpecError, option_types
from clbench.outside.visible import shell_word
from clbench.records.record import Record
from clbench.report.exports import picture_kinds

OTHERS = ("naive", "lae-adapter")  # each is a comparison that tells something about any method


def outcome(record: Record) -> RenderableType:
    """Return the tables of a run, where its record lies, and commands with what each is for."""
    folder = shell_word(str(record.path))
    commands = {
        f"clbench report {folder}": "figures and tables as files; name more runs to compare them",
        f"clbench predict {folder} IMAGE...": "which class pictures of yours show",
    }
    if record.spec.parent is None:
        commands[another_run(record)] = "the same with another strategy"
        commands[f"clbench show {record.spec.strategy.name}"] = "this strategy's paper and options"
    else:
        commands[f"clbench learn {folder} --stream folder:PATH"] = "another task behind those"
        commands[f"clbench export {folder} --out DIR"] = "a folder to take along, without training pictures"
    variants = report.variant_table(record)
    return Group(
        report.run_tables(record),
        *([] if variants is None else [variants]),
        lines([f"\nrecord: {record.path}", *next_steps(commands)]),
    )


def next_steps(commands: Mapping[str, str]) -> list[str]:
    """Return the lines that name commands, with what each is for."""
    return ["next:", *(f"  {command}\n      {purpose}" for command, purpose in commands.items())]


def summary(records: Sequence[Record], out: Path) -> RenderableType:
    """Return the runs side by side; write mean and std of each group, and all tables and figures."""
    groups = report.group_runs(records)
    folder = out / f"summary-{report.common_stem(groups)}"
    compared = report.report([record.path for record in records], folder)
    names = ", ".join(file.name for file in compared.files)
    return Group(
        compared, _written(report.write_seed_summary(records)), Text(f"written: {folder}/ with {names}")
    )


def comparison(
    folders: list[Path], out: Path | None, html: Path | None, wishes: report.Wishes
) -> RenderableType:
    """Return the runs in the folders side by side; write tables and figures, or a page."""
    compared = report.report(folders, out, html, wishes=wishes)
    return Group(compared, _written(compared.files))


def wishes(
    labels: Sequence[str], metrics: str | None, figures: str, *, by_task: bool, recompute: bool
) -> report.Wishes:
    """Return what was typed about a report, checked; UserError in one line for what does not exist."""
    asked = find_all(",".join(map(current_name, (metrics or "").split(","))))
    if metrics is not None and not asked:
        raise SpecError("--metrics: name at least one (see: clbench list metrics)")
    picture_kinds(figures)
    return report.Wishes(tuple(labels), tuple(asked), figures, by_task, recompute)


def another_run(record: Record) -> str:
    """Return the command of a run with another strategy, and without the options that this one lacks."""
    here = record.spec.strategy.name
    other = next(name for name in OTHERS if strategies.split(name)[0] != here)
    allowed = option_types(strategies.get(other))
    words = iter(_typed(record))
    kept = []
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--strategy", "--set"):
            kept.append(word)
            continue
        value = value if equals else next(words, "")
        section, _, name = value.partition("=")[0].partition(".")
        if option == "--set" and (section != "strategy" or name in allowed):
            kept += [option, value]
    return " ".join(map(shell_word, [*kept, "--strategy", other]))


def _typed(record: Record) -> list[str]:
    """Return the words of the command that began a run; where they are not known, those of one like it."""
    try:
        words = shlex.split(record.command)
    except ValueError:  # a quotation mark without another
        words = []
    return words or ["clbench", "run", "--config", str(record.path / "spec.toml")]


def _written(files: Sequence[Path]) -> Text:
    return lines([f"written: {file}" for file in files])


def lines(lines: Sequence[str]) -> Text:
    """Return lines that are never wrapped, so that they can be copied."""
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")
