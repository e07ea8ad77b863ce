"""Run every notebook as a reader would, from top to bottom, and look at what it shows."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from matplotlib import font_manager  # noqa: F401  # lists the fonts once, which a notebook would tell of
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def image(cell: Any) -> np.ndarray[Any, Any]:
    """The picture that a cell ends in."""
    png = cell.outputs[-1].data["image/png"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("L"))


def test_a_folder_listing_is_the_reading_order() -> None:
    assert [int(path.stem.split("-")[0]) for path in NOTEBOOKS] == list(range(1, 10))
    listed = re.findall(r"\]\((.+?\.ipynb)\)", (FOLDER / "README.md").read_text("utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]
    assert not [
        path.name for path in NOTEBOOKS if not read(path).cells[0].source.startswith(f"# {path.name[0]}. ")
    ]


@each
def test_a_notebook_is_short_valid_and_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert 8 <= len(notebook.cells) <= 14
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@each
def test_a_notebook_links_to_files_that_are_there(path: Path) -> None:
    text = "".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https://)(.+?)\)", text):
        assert (FOLDER / target).is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what talks to the kernel
@each
def test_a_notebook_runs_from_top_to_bottom_and_ends_in_a_picture(
    path: Path, tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    paths = [str(checkout), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))  # for a checkout not installed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    told = [output.text for output in outputs if output.get("name") == "stderr"]
    assert told == []  # no warning, no progress
    assert image(code_cells(notebook)[-1]).std() > 5  # not blank
    assert list(tmp_path.glob("runs/*/*/metrics.json"))
