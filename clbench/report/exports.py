"""Write a comparison as files: tables for spreadsheets, papers and programs, and every picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from clbench.files import make_folder, write_bytes
from clbench.options import SpecError
from clbench.registry import did_you_mean
from clbench.report.budgets import budgets_csv, learners
from clbench.report.columns import QUALITY, Column
from clbench.report.groups import Group, partition
from clbench.report.latex import latex_table
from clbench.report.markdown import markdown_table
from clbench.report.pictures import NoPictureError, Picture
from clbench.report.pictures.picture import KINDS
from clbench.report.plans import PLANS
from clbench.report.spreadsheet import (
    forgetting_csv,
    fronts_csv,
    ranks_csv,
    runs_csv,
    runs_parquet,
    summary_csv,
    tests_csv,
)

MOST_GROUPS = 12  # whose own pictures are drawn; those of a single run lie in its folder


def write_comparison(
    groups: Sequence[Group],
    warnings: Sequence[str],
    out: Path,
    quality: Sequence[Column] = QUALITY,
    kinds: str = "png",
) -> list[Path]:
    """Write every file into a folder, made if need be, and return their paths.

    ``quality`` are the columns of what was learnt, ``kinds`` what figures are written as: "png,pdf", say.
    """
    endings = picture_kinds(kinds)
    make_folder(out)
    written = []
    for name, data in _tables(groups, warnings, quality).items():
        written.append(out / name)
        write_bytes(written[-1], data)
    for stem, draw in _drawings(groups).items():
        with suppress(NoPictureError):
            picture = draw()
            for ending in endings:
                written.append(out / f"{stem}.{ending}")
                picture.save(written[-1])
    return written


def picture_kinds(listed: str) -> list[str]:
    """Return the endings that commas separate; SpecError for one that no picture can have."""
    endings = [each.strip().lower().removeprefix(".") for each in listed.split(",") if each.strip()]
    for each in endings:
        if each not in KINDS:
            near = did_you_mean(each, KINDS)
            raise SpecError(f"--figures {listed!r}: no {each!r}{near} (allowed: {', '.join(KINDS)})")
    return list(dict.fromkeys(endings))


def write_figures(group: Group, folder: Path) -> None:
    """Draw one run, a group of its own, into a folder: whatever there is data for."""
    make_folder(folder)
    for plan in PLANS:
        if plan.is_of_run:
            with suppress(NoPictureError):
                plan.draw([group]).save(folder / f"{plan.stem}.png")


def _tables(groups: Sequence[Group], warnings: Sequence[str], quality: Sequence[Column]) -> dict[str, bytes]:
    return {
        "runs.csv": runs_csv(groups).encode(),
        "runs.parquet": runs_parquet(groups),
        "summary.csv": summary_csv(groups).encode(),
        "tests.csv": tests_csv(groups).encode(),
        "ranks.csv": ranks_csv(groups, quality).encode(),
        "fronts.csv": fronts_csv(groups).encode(),
        "forgetting.csv": forgetting_csv(groups).encode(),
        **({"budgets.csv": budgets_csv(groups).encode()} if learners(groups) else {}),
        "comparison.md": markdown_table(groups, warnings, quality).encode(),
        "comparison.tex": latex_table(groups, warnings, quality).encode(),
    }


def _drawings(groups: Sequence[Group]) -> dict[str, Callable[[], Picture]]:
    """Return what draws each file, by its name without ending; streams are numbered if there are several."""
    streams = partition(groups, "stream")
    of_stream = [plan for plan in PLANS if not plan.is_of_one]
    of_one = [plan for plan in PLANS if plan.is_of_one]
    drawings: dict[str, Callable[[], Picture]] = {}
    for number, members in enumerate(streams, start=1):
        suffix = f"-{number}" if len(streams) > 1 else ""
        drawings |= {f"{plan.stem}{suffix}": partial(plan.draw, members) for plan in of_stream}
    for group in groups if len(groups) <= MOST_GROUPS else ():
        drawings |= {f"{plan.stem}_{group.file_stem}": partial(plan.draw, [group]) for plan in of_one}
    return drawings
