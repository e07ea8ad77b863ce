"""A learner that goes on with fewer tokens does so wherever it is loaded, plug-in and all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import clbench
from clbench import Learner, Places, Record, UserError
from clbench.records.forms import variant_record
from clbench.runs.earlier import build_stream
from clbench.seeds import Seeds

pytestmark = pytest.mark.usefixtures("no_figures", "timed_once")

TOME = {"name": "tome", "removed": 3}
REFUSED = ("needs each token in its place", "needs blocks that attend among a sequence of tokens")


def assert_says(learner: Learner, record: Record) -> None:
    """A learner says of the images of a record's last evaluation what stands in its log."""
    log = record.predictions()
    is_last = log["after_task"] == log["after_task"].max()
    pictures = np.asarray(build_stream(record.spec.stream, Places(), Seeds(0)).tasks[0].train.images)
    said = learner.predict(pictures[log["row"][is_last]])
    np.testing.assert_array_equal(said.classes.numpy(), log["prediction"][is_last])
    if learner.strategy.gives_probabilities:
        shares = said.scores.amax(dim=1).numpy()
        np.testing.assert_allclose(shares, log["confidence"][is_last], atol=1e-5)  # in batches of other sizes


@pytest.mark.parametrize("module", ["lora", "adapter", "prefix", "conv-adapter"])
@pytest.mark.parametrize("form", ["tome:removed=3", "evit:keep=0.5", "tome:removed=2+rtn:bits=4"])
def test_a_variant_is_loaded_and_shipped(
    module: str, form: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    record = run("naive", variant=[form], petl={"name": module})
    learner = clbench.load(record.path)
    made = learner.variant(form)
    assert_says(made, variant_record(record, record.spec.variants[0]))
    assert_says(learner, record)
    assert_says(clbench.load(made.save(tmp_path / "bundle")), variant_record(record, record.spec.variants[0]))


def test_a_learner_on_fewer_tokens_is_loaded_shipped_and_taught_more(
    plugin: Path, run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    repaired = {**TOME, "plugin": str(plugin), "plugin_scale": 1.0}
    record = run("naive", compress=repaired, petl={"name": "lora"})
    plugin.unlink()
    learner = clbench.load(record.path)
    assert_says(learner, record)
    bundle = learner.save(tmp_path / "bundle")
    assert_says(clbench.load(bundle), record)
    assert_says(clbench.load(learner.save(tmp_path / "light", without_backbone=True)), record)
    new = f"npz:{squares('new.npz', ['fir', 'gum'])}"
    settings = {"stream": {"validation_rate": 0}}
    children = [
        clbench.load(place).learn(new, settings=settings, out=tmp_path / name)
        for place, name in ((record.path, "of-run"), (bundle, "of-bundle"))
    ]
    logs = [child.predictions() for child in children]
    for column in ("row", "prediction"):
        is_new = [log["after_task"] == log["after_task"].max() for log in logs]
        np.testing.assert_array_equal(logs[0][column][is_new[0]], logs[1][column][is_new[1]])
    for child in children:
        assert child.read_json("hashes.json")["compress"] == record.read_json("hashes.json")["compress"]
        assert clbench.load(child.path).num_tasks == 3


@pytest.mark.parametrize("is_learnt_so", [False, True], ids=["plain", "compressed"])
def test_a_plug_in_lies_below_what_is_merged(
    plugin: Path, is_learnt_so: bool, run: Callable[..., Record], tmp_path: Path
) -> None:
    at = 3 if is_learnt_so else 0
    forms = [
        f"tome:removed=5,plugin={plugin},learnt_at={at},plugin_scale=1",
        f"tome:removed=5,plugin={plugin},learnt_at={at},plugin_scale=1+rtn:bits=4",
    ]
    learnt = {"compress": TOME} if is_learnt_so else {}
    record = run("naive", variant=forms, petl={"name": "lora"}, **learnt)
    later = clbench.load(record.path).variant(f"tome:removed=1,plugin={plugin},learnt_at={at},plugin_scale=1")
    bundle = later.save(tmp_path / "later")
    plugin.unlink()
    assert later.folded
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    assert torch.equal(clbench.load(bundle).predict(pixels).scores, later.predict(pixels).scores)
    for number, variant in enumerate(record.spec.variants):
        made = clbench.load(record.path).variant(variant.name)
        assert_says(made, variant_record(record, variant))
        assert_says(clbench.load(made.save(tmp_path / f"bundle-{number}")), variant_record(record, variant))


@pytest.mark.slow
@pytest.mark.usefixtures("can_trace")
@pytest.mark.parametrize("form", ["tome:removed=3", "evit:keep=0.5", "tome:removed=2+rtn:bits=4"])
def test_a_graph_of_it_says_the_same_without_torch(
    form: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    record = run("naive", variant=[form], petl={"name": "lora"})
    report = (
        clbench.load(record.path).variant(form).export_onnx(tmp_path / "learner.onnx", preprocessing="inside")
    )
    assert report.num_same_class == report.num_compared


def test_what_modules_are_merged_into_cannot_be_left_out(run: Callable[..., Record], tmp_path: Path) -> None:
    made = clbench.load(run("naive", petl={"name": "lora"}).path).variant("tome:removed=2")
    with pytest.raises(UserError, match="with modules or a plug-in in its weights is found nowhere else"):
        made.save(tmp_path / "bundle", without_backbone=True)


def test_a_damaged_plugin_is_refused_in_one_line(plugin: Path, run: Callable[..., Record]) -> None:
    record = run("simplecil", compress={**TOME, "plugin": str(plugin)})
    file = record.path / "compress.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"compress\.safetensors") as told:
        clbench.load(record.path)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_every_strategy_learns_on_fewer_tokens_or_says_in_one_line_why_not(
    strategy_name: str, run: Callable[..., Record]
) -> None:
    told, record = "", None
    try:
        record = run(strategy_name, compress=TOME)
    except UserError as refusal:
        told = str(refusal)
    assert "\n" not in told
    assert any(line in told for line in REFUSED) or (record and record.read_json("hashes.json")["compress"])
