"""Write a comparison as files: tables for spreadsheets, papers and programs, and every picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from clbench.files import make_folder, write_bytes
from clbench.report.groups import Group, partition
from clbench.report.latex import latex_table
from clbench.report.markdown import markdown_table
from clbench.report.pictures import NoPictureError, Picture
from clbench.report.plans import PLANS
from clbench.report.spreadsheet import fronts_csv, ranks_csv, runs_csv, runs_parquet, summary_csv, tests_csv

MOST_GROUPS = 12  # whose own pictures are drawn; those of a single run lie in its folder


def write_comparison(groups: Sequence[Group], warnings: Sequence[str], out: Path) -> list[Path]:
    """Write every file into a folder, made if need be, and return their paths."""
    make_folder(out)
    written = []
    for name, data in _tables(groups, warnings).items():
        written.append(out / name)
        write_bytes(written[-1], data)
    for name, draw in _drawings(groups).items():
        with suppress(NoPictureError):
            picture = draw()
            written.append(out / name)
            picture.save(written[-1])
    return written


def write_figures(group: Group, folder: Path) -> None:
    """Draw one run, a group of its own, into a folder: whatever there is data for."""
    make_folder(folder)
    for plan in PLANS:
        if plan.is_of_run:
            with suppress(NoPictureError):
                plan.draw([group]).save(folder / f"{plan.stem}.png")


def _tables(groups: Sequence[Group], warnings: Sequence[str]) -> dict[str, bytes]:
    return {
        "runs.csv": runs_csv(groups).encode(),
        "runs.parquet": runs_parquet(groups),
        "summary.csv": summary_csv(groups).encode(),
        "tests.csv": tests_csv(groups).encode(),
        "ranks.csv": ranks_csv(groups).encode(),
        "fronts.csv": fronts_csv(groups).encode(),
        "comparison.md": markdown_table(groups, warnings).encode(),
        "comparison.tex": latex_table(groups, warnings).encode(),
    }


def _drawings(groups: Sequence[Group]) -> dict[str, Callable[[], Picture]]:
    """Return what draws each file; streams are numbered if there are several."""
    streams = partition(groups, "stream")
    of_stream = [plan for plan in PLANS if not plan.is_of_one]
    of_one = [plan for plan in PLANS if plan.is_of_one]
    drawings: dict[str, Callable[[], Picture]] = {}
    for number, members in enumerate(streams, start=1):
        suffix = f"-{number}" if len(streams) > 1 else ""
        drawings |= {f"{plan.stem}{suffix}.png": partial(plan.draw, members) for plan in of_stream}
    for group in groups if len(groups) <= MOST_GROUPS else ():
        drawings |= {f"{plan.stem}_{group.file_stem}.png": partial(plan.draw, [group]) for plan in of_one}
    return drawings
