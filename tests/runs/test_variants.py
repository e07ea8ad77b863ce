"""A learner predicts in other forms, too: it is not touched by that, and a stopped run goes on the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor

from clbench import load_runs
from clbench.errors import UserError
from clbench.options import SpecError
from clbench.quant.parts.low_bit_weight import LowBitWeight
from clbench.records.forms import variant_record, with_variants
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report import variant_table
from clbench.runs.line import execute, resume
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures", "timed_once")

TASK_WISE = ("confit",)  # has to be told the task
VARIANTS = ["rtn:bits=8", "rtn:bits=2"]


@pytest.fixture
def spec(quick_options: Callable[[str], dict[str, Any]], tmp_path: Path) -> Callable[..., RunSpec]:
    """A function that gives the spec of a strategy on two tasks of noise around two levels each."""
    file = tmp_path / "levels.npz"
    random, parts = np.random.default_rng(0), {}
    for name, number in (("train", 14), ("test", 6)):
        level = np.repeat([30, 90, 150, 220], number)
        parts[f"{name}_x"] = (
            level[:, None, None, None] + random.integers(-25, 25, (len(level), 8, 8, 3))
        ).astype(np.uint8)
        parts[f"{name}_y"] = np.repeat(np.arange(4), number)
    np.savez(file, **parts)

    def make(name: str, variants: list[str], **sections: dict[str, Any]) -> RunSpec:
        scenario = {"scenario": "task"} if name in TASK_WISE else {}
        backbone = {"name": "slim-resnet18", "image_size": 32} if name in TASK_WISE else {"name": "vit-micro"}
        stream = {"name": f"npz:{file}", "tasks": "2", "validation_rate": 0, **scenario}
        strategy = {"name": name, **quick_options(name), **sections.pop("strategy", {})}
        named = {"stream": stream, "strategy": strategy, "backbone": backbone, "variant": variants}
        return resolve({**named, **sections})

    return make


def run(spec: RunSpec, tmp_path: Path, **more: Any) -> Record:
    return execute(spec, out=tmp_path / "runs", places=Places(None, tmp_path / "cache"), **more)


def variants_of(record: Record) -> list[Record]:
    return [variant_record(record, variant) for variant in record.spec.variants]


@pytest.mark.slow
def test_the_learner_predicts_the_same_with_and_without_variants(
    strategy_name: str, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    check_untouched(strategy_name, spec, tmp_path)


@pytest.mark.parametrize("name", ["icarl"])
def test_so_do_the_commonest(name: str, spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    check_untouched(name, spec, tmp_path)


def check_untouched(strategy_name: str, spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    with_them = run(spec(strategy_name, VARIANTS), tmp_path)
    without = run(spec(strategy_name, []), tmp_path)
    for name, values in without.predictions().items():
        assert_array_equal(with_them.predictions()[name], values, name)
    fine, coarse = variants_of(with_them)
    assert fine.is_finished
    for name in ("task", "row", "label", "after_task"):
        assert_array_equal(fine.predictions()[name], with_them.predictions()[name])
    confidence = with_them.predictions()["confidence"]
    if confidence.min() < 1:  # nothing moves one that is sure of everything
        assert not np.array_equal(coarse.predictions()["confidence"], confidence), "two bits change nothing"


def test_a_variant_is_a_row_of_every_table(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    record = run(spec("simplecil", VARIANTS), tmp_path)
    runs = load_runs(record.path)
    assert [group.label for group in runs.groups] == [
        "simplecil-linear",
        "simplecil-linear · as rtn:bits=2",
        "simplecil-linear · as rtn:bits=8",
    ]
    assert set(runs.metrics["variant"]) == {"", *VARIANTS}
    cost = runs.costs.set_index(["variant", "cost"])["value"]
    assert (
        cost["rtn:bits=2", "deployed_bytes"]
        < cost["rtn:bits=8", "deployed_bytes"]
        < cost["", "deployed_bytes"]
    )
    bits = "bit_operations.evaluate_per_image"
    assert cost["rtn:bits=2", bits] < cost["rtn:bits=8", bits] < cost["", bits]
    assert cost["rtn:bits=2", "speed.latency_ratio"] > 0
    assert variant_table(record) is not None
    assert set(runs.tests()["first"]) | set(runs.tests()["second"]) == {group.label for group in runs.groups}


@pytest.mark.slow
def test_only_the_last_task_where_that_is_asked_for(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    (each,) = variants_of(run(spec("simplecil", ["rtn:bits=4"]), tmp_path))
    (last,) = variants_of(run(spec("simplecil", ["rtn:bits=4"], run={"variants": "end"}), tmp_path))
    assert sorted(set(each.predictions()["after_task"].tolist())) == [0, 1]
    assert set(last.predictions()["after_task"].tolist()) == {1}
    chosen = each.predictions()["after_task"] == 1
    for name, values in last.predictions().items():
        assert_array_equal(each.predictions()[name][chosen], values)


@pytest.mark.parametrize(
    "name",
    ["simplecil", *(pytest.param(each, marks=[pytest.mark.slow]) for each in ("ranpac", "slda", "fecam"))],
)
def test_what_is_refitted_is_what_learning_on_the_bits_would_have_made(
    name: str, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    module = {"phase1": False} if name == "ranpac" else {}
    both = run(spec(name, ["rtn:bits=2", "rtn:bits=2+refit"], strategy=module), tmp_path)
    kept, refitted = variants_of(both)
    learnt_so = run(spec(name, [], strategy=module, quant={"name": "rtn", "bits": 2}), tmp_path)
    for column, values in learnt_so.predictions().items():
        assert_array_equal(refitted.predictions()[column], values, column)
    if name != "slda":  # which is sure of everything here
        assert not np.array_equal(kept.predictions()["confidence"], learnt_so.predictions()["confidence"])
    (late,) = variants_of(
        run(spec(name, ["rtn:bits=2+refit"], strategy=module, run={"variants": "end"}), tmp_path)
    )
    chosen = refitted.predictions()["after_task"] == 1
    assert_array_equal(late.predictions()["prediction"], refitted.predictions()["prediction"][chosen])


def test_a_strategy_has_variants_of_its_own(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    record = run(spec("lae", ["offline", "offline+rtn:bits=8", "online"]), tmp_path)
    offline, low, online = variants_of(record)
    first = offline.predictions()["after_task"] == 0  # when there is one module
    both = record.predictions()["confidence"]
    for variant in (offline, online):
        assert_array_equal(variant.predictions()["confidence"][first], both[first])
        assert not np.array_equal(variant.predictions()["confidence"], both)
    flops = [each.read_json("costs.json")["flops"]["evaluate_per_image"] for each in (offline, record)]
    assert flops[0] < 0.6 * flops[1]
    assert low.read_json("costs.json")["backbone_bytes"] != offline.read_json("costs.json")["backbone_bytes"]


def test_a_form_that_tells_no_image_from_another_ends_no_run(
    spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: object, matrix: Tensor) -> LowBitWeight:
        scale = torch.zeros(len(matrix), 1)
        return LowBitWeight.of(torch.zeros_like(matrix), scale, scale.clone(), 4)

    monkeypatch.setattr("clbench.quant.rtn.RoundToNearest.stored", nothing)
    record = run(spec("simplecil", ["rtn:bits=4"]), tmp_path)
    (variant,) = variants_of(record)
    assert record.is_finished
    assert variant.is_finished
    assert variant.read_json("metrics.json")["accuracy"] is None
    assert "variant rtn:bits=4 predicts nothing" in (record.path / "events.jsonl").read_text()
    assert load_runs(record.path).runs["variant"].tolist() == ["", "rtn:bits=4"]


class Stopped(Progress):
    """Stops a run when a variant has predicted so often."""

    def __init__(self, number: int) -> None:
        self.number = number

    def variant_predicted(self, variant: str, accuracies: list[float]) -> None:
        self.number -= 1
        if self.number == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "variants", "number"),
    [
        pytest.param("simplecil", ["rtn:bits=2", "rtn:bits=2+refit"], 1, marks=[pytest.mark.slow]),
        ("simplecil", ["rtn:bits=2", "rtn:bits=2+refit"], 3),
        pytest.param("naive", VARIANTS, 1, marks=[pytest.mark.slow]),
        pytest.param("naive", VARIANTS, 3, marks=[pytest.mark.slow]),
    ],
)
def test_stopped_between_variants_a_run_goes_on_the_same(
    name: str, variants: list[str], number: int, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    whole = run(spec(name, variants), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(spec(name, variants), tmp_path, progress=Stopped(number))
    (folder,) = (each for each in (tmp_path / "runs").iterdir() if each != whole.path)
    gone_on = resume(folder, places=Places(None, tmp_path / "cache"))
    for ours, theirs in zip(with_variants(gone_on), with_variants(whole), strict=True):
        for column, values in theirs.predictions().items():
            assert_array_equal(ours.predictions()[column], values)
        assert ours.read_json("metrics.json") == theirs.read_json("metrics.json")
        assert [each["task"] for each in ours.read_json("costs.json")["by_task"]] == [0, 1]
    assert not gone_on.changes()


def test_a_run_does_not_go_on_without_what_a_variant_predicted(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(spec("simplecil", VARIANTS), tmp_path, progress=Stopped(3))
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "variants/rtn-bits2/predictions/after-task-00.parquet").unlink()
    with pytest.raises(UserError, match=r"variants/rtn-bits2/predictions/after-task-00\.parquet is missing"):
        resume(folder, places=Places(None, tmp_path / "cache"))


def test_a_folder_that_was_changed_is_told_of(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    record = run(spec("simplecil", ["rtn:bits=4"]), tmp_path)
    (variant,) = variants_of(record)
    (variant.path / "metrics.json").write_text("{}")
    assert record.changes() == ["variants/rtn-bits4/metrics.json"]


@pytest.mark.parametrize(
    ("variants", "line"),
    [
        (["rtn:bits=5"], "quant.bits: '5' is not allowed"),
        (["rnt:bits=4"], "no 'rnt'; did you mean 'rtn'"),
        (["rtn:bits=4", "rtn:bits=4"], "is named twice"),
        (["rtn", "rtn:bits=4"], "is named twice"),
        (["rtn:bits=4+rtn:bits=8"], "two of the kind 'quant'"),
        (["rtn:bit=4"], "quant has no option 'bit'; did you mean 'bits'"),
        (["rtn:bits"], "write rtn:option=value"),
        (["rtn:bits=4,bits=8"], "bits stands there twice"),
        ([":bits=4"], "there is no name before the colon"),
        (["refit"], "nothing that would change the features"),
        (["offline"], "no 'offline'"),
    ],
)
def test_what_is_no_variant_is_refused_in_one_line(
    variants: list[str], line: str, spec: Callable[..., RunSpec]
) -> None:
    with pytest.raises(SpecError, match=line) as told:
        spec("simplecil", variants)
    assert "\n" not in str(told.value)


def test_images_to_calibrate_on_are_counted_before_anything_is_learnt(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"asked for, and a task has 28 .* images=28"):
        run(spec("naive", ["minmax:bits=4"]), tmp_path)
    with pytest.raises(UserError, match="keeps no images; use current or first"):
        run(spec("naive", ["minmax:bits=4,images=4"], run={"calibration": "memory"}), tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "whose", ["memory", *(pytest.param(each, marks=[pytest.mark.slow]) for each in ("current", "first"))]
)
def test_a_variant_is_calibrated_on_images_that_may_be_looked_at(
    whose: str, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    record = run(spec("er", ["minmax:bits=8,images=8"], run={"calibration": whose}), tmp_path)
    (variant,) = variants_of(record)
    assert variant.read_json("metrics.json")["accuracy"] is not None
    assert variant.read_json("costs.json")["calibration"]["seconds"] > 0


def test_a_calibration_of_the_same_images_on_the_same_weights_is_done_once(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    asked = ["minmax:bits=8,images=8"]
    (once,) = variants_of(run(spec("simplecil", asked, run={"calibration": "first"}), tmp_path))
    first, second = (each["calibration"] for each in once.read_json("costs.json")["by_task"])
    assert first["seconds"] == second["seconds"] > 0
    assert first["times"] == second["times"] == 1


def test_a_spec_without_variants_keeps_its_id_and_one_with_them_its_group() -> None:
    plain, with_one = resolve({}), resolve({"variant": ["rtn:bits=4"], "run": {"variants": "end"}})
    assert "variant" not in plain.to_toml()
    assert with_one.id != plain.id
    assert with_one.group == plain.group
    again = RunSpec.from_toml(with_one.to_toml())
    assert again == with_one
    assert resolve(again.to_dict()).id == with_one.id
