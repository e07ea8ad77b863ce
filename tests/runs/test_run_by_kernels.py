"""Learners of few bits run by the kernels without being asked to, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor

from clbench.quant.kernels import library
from clbench.quant.kernels.kernel_layer import KernelLayer, Way
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report.provenance import provenance
from clbench.runs.line import execute, resume
from clbench.streams import Places

HERE = library.running()

pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    pytest.mark.skipif(not HERE, reason="installed without kernels, or none runs on this processor"),
]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[Way]:
    """The ways of all products from now on, by the instruction set that is taken where none is asked for."""
    monkeypatch.delenv(library.VARIABLE)
    made: list[Way] = []
    product = KernelLayer.product

    def counted(self: KernelLayer, inputs: Tensor, bias: Tensor | None, way: Way) -> Tensor:
        made.append(way)
        return product(self, inputs, bias, way)

    monkeypatch.setattr(KernelLayer, "product", counted)
    return made


def spec_of(strategy: str, **sections: Any) -> RunSpec:
    stream = {"tasks": "2", "train_per_class": 6, "test_per_class": 4}
    quick = {"epochs": 2, "batch_size": 8} if strategy == "naive" else {}
    return resolve({"stream": stream, "strategy": {"name": strategy, **quick}, **sections})


def run(spec: RunSpec, tmp_path: Path, **more: Any) -> Record:
    return execute(spec, out=tmp_path / "runs", places=Places(None, tmp_path / "cache"), **more)


RTN = {"name": "rtn", "bits": 4}
FORM = {"name": "rtn:bits=2", "quant": {"name": "rtn", "bits": 2}}


@pytest.mark.parametrize("sections", [{"quant": RTN}, {"variant": [FORM]}], ids=["quant", "variant"])
@pytest.mark.parametrize("strategy", ["naive", "simplecil"])
def test_whole_learners_run_by_kernels(
    strategy: str, sections: dict[str, Any], products: list[Way], tmp_path: Path
) -> None:
    record = run(spec_of(strategy, **sections), tmp_path)
    assert products
    assert record.read_json("environment.json")["machine"]["kernels"] == HERE[0]
    assert f"low-bit kernels: {HERE[0]}" in provenance(record).facts["machine"]
    assert torch.as_tensor(record.read_json("metrics.json")["accuracy"]).isfinite()


def test_what_is_learnt_through_kernels_is_what_is_learnt_without(
    products: list[Way], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernels = run(spec_of("naive", quant=RTN), tmp_path)
    count = len(products)
    monkeypatch.setenv(library.VARIABLE, library.PORTABLE)
    by_torch = run(spec_of("naive", quant=RTN), tmp_path / "other")
    assert len(products) == count
    one, other = (record.predictions() for record in (by_kernels, by_torch))
    agree = (one["prediction"] == other["prediction"]).mean()
    assert agree > 0.9
    assert abs(one["confidence"] - other["confidence"]).mean() < 0.02


def test_a_stopped_run_goes_on_the_same(
    interrupted: Callable[[int], Progress], products: list[Way], tmp_path: Path
) -> None:
    spec = spec_of("naive", quant=RTN)
    whole = run(spec, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, progress=interrupted(5))
    (folder,) = (each for each in (tmp_path / "runs").iterdir() if each != whole.path)
    gone_on = resume(folder, places=Places(None, tmp_path / "cache"))
    for column, values in whole.predictions().items():
        assert_array_equal(gone_on.predictions()[column], values)


@pytest.mark.parametrize(("quant", "is_told"), [({"quant": RTN}, True), ({}, False)])
def test_other_kernels_are_said_where_they_matter(
    quant: dict[str, Any],
    is_told: bool,
    interrupted: Callable[[int], Progress],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(library.VARIABLE, library.PORTABLE)
    with pytest.raises(KeyboardInterrupt):
        run(spec_of("naive", **quant), tmp_path, progress=interrupted(5))
    (folder,) = (tmp_path / "runs").iterdir()
    monkeypatch.setenv(library.VARIABLE, HERE[0])
    resume(folder, places=Places(None, tmp_path / "cache"))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (resumed,) = [event for event in events if event["event"] == "resumed"]
    told = f"kernels: {HERE[0]}, not portable"
    assert (told in resumed.get("differs", [])) == is_told


def test_features_of_other_kernels_are_not_taken_for_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confidences(kernels: str) -> Any:
        monkeypatch.setenv(library.VARIABLE, kernels)
        return run(spec_of("simplecil", quant={"name": "rtn", "bits": 2}), tmp_path).predictions()[
            "confidence"
        ]

    portable = confidences(library.PORTABLE)
    assert (confidences(f"{HERE[0]}:look-up") != portable).any()
    assert_array_equal(confidences(library.PORTABLE), portable)
