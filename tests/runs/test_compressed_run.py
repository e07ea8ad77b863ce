"""A run on fewer tokens is a run like any other: it resumes, costs less, and says how many there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.compress.evit import EViT
from clbench.compress.tome import ToMe
from clbench.errors import UserError
from clbench.options import SpecError
from clbench.petl.lora import LoRA
from clbench.records.forms import variant_record
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.line import execute, resume
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures", "timed_once")

TOME = {"name": "tome", "removed": 3}


def spec_of(strategy: str, **sections: Any) -> RunSpec:
    stream = {"tasks": "2", "train_per_class": 6, "test_per_class": 4}
    quick = {"epochs": 3, "batch_size": 8} if strategy == "naive" else {}
    return resolve({"stream": stream, "strategy": {"name": strategy, **quick}, **sections})


def run(spec: RunSpec, tmp_path: Path, **more: Any) -> Record:
    return execute(spec, out=tmp_path / "runs", places=Places(None, tmp_path / "cache"), **more)


def micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def assert_same_log(one: Record, other: Record) -> None:
    for column, values in one.predictions().items():
        assert_array_equal(other.predictions()[column], values)


@pytest.mark.parametrize(
    "compress",
    [TOME, {"name": "evit", "keep": 0.5, "shrink_start": 1, "shrink_epochs": 2}],
    ids=["tome", "evit"],
)
def test_a_stopped_run_on_fewer_tokens_goes_on_the_same(
    compress: dict[str, Any], interrupted: Callable[[int], Progress], tmp_path: Path
) -> None:
    spec = spec_of("naive", compress=compress, run={"checkpoint_every": 1, "eval_every": 2})
    whole = run(spec, tmp_path)
    for step in (2, 4, 11):
        with pytest.raises(KeyboardInterrupt):
            run(spec, tmp_path, progress=interrupted(step))
        (folder,) = (each for each in (tmp_path / "runs").iterdir() if not Record.open(each).is_finished)
        gone_on = resume(folder, places=Places(None, tmp_path / "cache"))
        assert_same_log(whole, gone_on)
        assert gone_on.read_json("metrics.json") == whole.read_json("metrics.json")
        assert gone_on.read_json("hashes.json") == whole.read_json("hashes.json")


def test_learning_on_fewer_tokens_takes_fewer_operations(tmp_path: Path) -> None:
    plain, fewer = run(spec_of("naive"), tmp_path), run(spec_of("naive", compress=TOME), tmp_path)
    flops = [record.read_json("costs.json")["flops"] for record in (plain, fewer)]
    for account in ("train", "evaluate_per_image"):
        assert flops[1][account] < 0.93 * flops[0][account]  # the convolutions in front cost what they cost
    assert "compress" not in plain.read_json("hashes.json")
    assert "compress" in fewer.read_json("hashes.json")
    told = (fewer.path / "events.jsonl").read_text()
    assert "compressed: 14, 11, 8, 5 tokens behind the blocks" in told


def test_the_keep_rate_falls_over_the_epochs_of_the_first_task_alone() -> None:
    asked = EViT(keep=0.5, shrink_start=1, shrink_epochs=2)
    assert [asked.during(epoch).keep for epoch in range(4)] == [1, 1, 0.75, 0.5]  # type: ignore[attr-defined]
    assert EViT(keep=0.5).during(0) == EViT(keep=0.5)


def test_the_cache_tells_degrees_apart_and_changes_no_number(tmp_path: Path) -> None:
    records = [
        run(spec_of("simplecil", compress={**TOME, "removed": removed}, run={"exact": exact}), tmp_path)
        for removed, exact in ((1, False), (3, False), (3, True))
    ]
    few, more, exact = (record.predictions() for record in records)
    assert (few["confidence"] != more["confidence"]).any()
    for column, values in exact.items():
        assert_array_equal(more[column], values)


def test_no_block_behind_a_merging_one_is_entered_from_a_cache() -> None:
    backbone = micro()
    module = LoRA(num_blocks=1).attach(backbone, torch.Generator().manual_seed(0))
    module._sites = [backbone.blocks[3]["attn.qkv"]]  # as if it were in the fourth block
    assert backbone.first_changing_block == 3
    form = ToMe(blocks="0/2").compress(backbone)
    assert (form.first_block, backbone.first_changing_block) == (1, 1)
    module.requires_grad_(False)
    module.eval()
    assert backbone.first_changing_block == len(backbone.blocks)
    form.detach()


def test_variants_of_fewer_tokens_leave_the_learner_as_it_is(tmp_path: Path) -> None:
    names = ["tome:removed=0", "tome:removed=3", "evit:keep=0.5", "tome:removed=3+rtn:bits=4"]
    plain = run(spec_of("naive"), tmp_path)
    record = run(spec_of("naive", variant=names), tmp_path)
    assert_same_log(plain, record)
    logs = [variant_record(record, variant).predictions() for variant in record.spec.variants]
    assert_array_equal(logs[0]["prediction"], plain.predictions()["prediction"])
    assert all((log["confidence"] != logs[0]["confidence"]).any() for log in logs[1:])
    costs = [variant_record(record, each).read_json("costs.json") for each in record.spec.variants]
    bits = [each["bit_operations"]["evaluate_per_image"] for each in costs]
    assert bits[0] > bits[1] > bits[3]
    assert all(each["speed"]["latency_ratio"] > 0 for each in costs)


def test_a_variant_takes_the_place_of_what_the_learner_learnt_with(tmp_path: Path) -> None:
    record = run(spec_of("naive", compress=TOME, variant=["tome:removed=3", "tome:removed=0"]), tmp_path)
    same, all_tokens = (variant_record(record, each) for each in record.spec.variants)
    assert_array_equal(same.predictions()["prediction"], record.predictions()["prediction"])
    bits = [
        each.read_json("costs.json")["bit_operations"]["evaluate_per_image"] for each in (same, all_tokens)
    ]
    assert bits[0] < bits[1]


def test_class_means_are_learnt_anew_from_fewer_tokens(tmp_path: Path) -> None:
    refitted = run(spec_of("simplecil", variant=["tome:removed=3+refit"]), tmp_path)
    learnt = run(spec_of("simplecil", compress=TOME), tmp_path)
    form = variant_record(refitted, refitted.spec.variants[0])
    assert_array_equal(form.predictions()["prediction"], learnt.predictions()["prediction"])


def test_a_record_keeps_its_plugins_and_needs_their_files_no_more(
    plugin: Path, interrupted: Callable[[int], Progress], tmp_path: Path
) -> None:
    repaired = {**TOME, "plugin": str(plugin), "learnt_at": 0, "plugin_scale": 1.0}
    to_none = f"tome:removed=0,plugin={plugin},learnt_at=0,plugin_scale=1"
    back = f"tome:removed=8,plugin={plugin},learnt_at=0,plugin_scale=1"
    spec = spec_of("naive", compress=repaired, variant=[to_none, back], petl={"name": "lora"})
    whole = run(spec, tmp_path)
    assert (whole.path / "compress.safetensors").read_bytes() == plugin.read_bytes()
    bare = run(spec_of("naive", compress=TOME, petl={"name": "lora"}), tmp_path)
    assert (bare.predictions()["confidence"] != whole.predictions()["confidence"]).any()
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, progress=interrupted(5))
    plugin.unlink()
    (folder,) = (each for each in (tmp_path / "runs").iterdir() if not Record.open(each).is_finished)
    gone_on = resume(folder, places=Places(None, tmp_path / "cache"))
    assert_same_log(whole, gone_on)
    for variant in spec.variants:
        assert_same_log(variant_record(whole, variant), variant_record(gone_on, variant))


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"compress": {"name": "tomme"}}, "no 'tomme'.*did you mean 'tome'"),
        ({"compress": {"removed": 3}}, "compress.removed is given, and no compress that has it"),
        (
            {"compress": {**TOME, "blocks": "3;4"}},
            "blocks: '3;4' is not allowed: write up to 4 whole numbers",
        ),
        ({"compress": {"name": "evit", "keep": 0}}, "compress.keep: 0 is not allowed"),
        ({"compress": {**TOME, "plugin": "none.safetensors"}}, "none.safetensors"),
        ({"compress": {**TOME, "plugin": "a", "inflection": 1}}, "plugin: it knows constant degrees alone"),
        (
            {"compress": {**TOME, "plugin": "a", "removed": 17}},
            "removed: 17 is not allowed: .* knows 0 to 16",
        ),
        (
            {"variant": ["tome:removed=2"], "petl": {"name": "convpass"}},
            "^variant tome:removed=2: convpass needs each token",
        ),
        (
            {
                "variant": ["tome"],
                "backbone": {"name": "resnet20", "weights": "none"},
                "petl": {"name": "linear"},
            },
            "tome needs blocks that attend",
        ),
        ({"variant": ["tome:plugin=none.safetensors"]}, "none.safetensors"),
        ({"compress": TOME, "petl": {"name": "convpass"}}, "convpass needs each token in its place"),
        ({"compress": TOME, "petl": {"name": "vpt-deep"}}, "vpt-deep needs each token in its place"),
        (
            {"compress": TOME, "backbone": {"name": "resnet20", "weights": "none"}},
            "tome needs blocks that attend",
        ),
    ],
)
def test_what_cannot_be_compressed_is_refused_in_one_line(
    sections: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line) as told:
        run(spec_of("naive", **sections), tmp_path)
    assert "\n" not in str(told.value)
    assert not [*tmp_path.rglob("predictions")]  # nothing was learnt before


@pytest.mark.parametrize(
    ("variant", "line"),
    [
        ("tome:removed=3+evit:keep=0.5", "it has two of the kind 'compress'"),
        ("tome:removed=8,plugin=a,learnt_at=2", "learnt_at=2, and what it repairs is learnt at 3"),
        ("tme:removed=3", "no 'tme'; did you mean 'tome'"),
    ],
)
def test_what_is_no_variant_is_refused_in_one_line(variant: str, line: str) -> None:
    with pytest.raises(SpecError, match=line) as told:
        resolve({"compress": TOME, "variant": [variant]})
    assert "\n" not in str(told.value)


def test_a_spec_without_compressor_has_the_id_that_it_had_and_one_with_comes_back_from_toml() -> None:
    assert resolve({"compress": {"name": "none"}}).id == resolve({}).id
    spec = resolve({"compress": TOME, "variant": ["tome:removed=0+rtn:bits=4", "evit"]})
    assert RunSpec.from_toml(spec.to_toml()) == spec
    assert spec.encoder == "vit-micro in tome (removed=3)"
