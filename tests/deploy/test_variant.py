"""A learner in another form says what the run logged of that form, and so does its bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save

import clbench
from clbench import Learner, Places, Record, UserError
from clbench.records.forms import variant_record
from clbench.runs.earlier import build_stream
from clbench.seeds import Seeds

pytestmark = pytest.mark.usefixtures("no_figures", "timed_once")

SLOW = ("bitfit", "ssf", "adapter", "prefix", "full")
MODULES = ["lora", *(pytest.param(name, marks=[pytest.mark.slow]) for name in SLOW)]


def said(learner: Learner, record: Record) -> tuple[np.ndarray, np.ndarray]:
    """What a learner says of the images of a record's last evaluation, and what stands in its log."""
    log = record.predictions()
    last = {name: values[log["after_task"] == log["after_task"].max()] for name, values in log.items()}
    pictures = np.asarray(build_stream(record.spec.stream, Places(), Seeds(0)).tasks[0].train.images)
    is_told = learner.history.scenario == "task"
    pieces, expected = [], []
    for task in np.unique(last["task"]).tolist() if is_told else [None]:
        chosen = last["task"] == task if is_told else slice(None)
        pieces.append(learner.predict(pictures[last["row"][chosen]], task=task).classes.numpy())
        expected.append(last["prediction"][chosen])
    return np.concatenate(pieces), np.concatenate(expected)


def check(record: Record, tmp_path: Path) -> None:
    learner = clbench.load(record.path)
    (variant,) = record.spec.variants
    form = learner.variant(variant.name)
    np.testing.assert_array_equal(*said(form, variant_record(record, variant)))
    np.testing.assert_array_equal(*said(learner, record))  # which is not touched
    bundled = clbench.load(form.save(tmp_path / "bundle"))
    np.testing.assert_array_equal(*said(bundled, variant_record(record, variant)))
    packed = (tmp_path / "bundle" / "learner.safetensors").stat().st_size
    whole = learner.save(tmp_path / "whole") / "learner.safetensors"
    assert packed < whole.stat().st_size
    with pytest.raises(UserError, match="learns no more"):
        bundled.learn("split-digits", out=tmp_path / "runs")
    with pytest.raises(UserError, match="is a variant already"):
        form.variant("rtn:bits=2")


@pytest.mark.slow
def test_a_variant_says_what_the_run_logged_of_it_and_so_does_its_bundle(
    strategy_name: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    check(run(strategy_name, variant=["rtn:bits=4"]), tmp_path)


@pytest.mark.parametrize("name", ["lae"])
def test_so_do_the_commonest(name: str, run: Callable[..., Record], tmp_path: Path) -> None:
    check(run(name, variant=["rtn:bits=4"]), tmp_path)


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_merged_where_they_merge_and_stay_beside_the_bits_where_they_do_not(
    module: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    check(run("naive", variant=["rtn:bits=4"], petl={"name": module}), tmp_path)


@pytest.mark.parametrize(
    "quantiser",
    [
        pytest.param("adalog:bits=4,images=8,tokens=32,rounds=1", marks=[pytest.mark.slow]),
        pytest.param("twin:bits=6,images=4", marks=[pytest.mark.slow]),
        pytest.param("log-sqrt2:bits=6,images=4", marks=[pytest.mark.slow]),
        "minmax:bits=6,images=4",
    ],
)
def test_so_it_is_where_activations_are_rounded_too(
    quantiser: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    check(run("naive", variant=[quantiser], petl={"name": "lora"}), tmp_path)


def test_several_states_of_the_weights_themselves_have_no_one_form(run: Callable[..., Record]) -> None:
    with pytest.raises(UserError, match="several states of the backbone's own weights"):
        run("lae", variant=["rtn:bits=4"], petl={"name": "full"})


def test_a_variant_that_the_run_did_not_have_is_made_later(
    run: Callable[..., Record], tmp_path: Path
) -> None:
    record = run("simplecil", variant=["rtn:bits=4"])
    form = clbench.load(record.path).variant("rtn:bits=3")
    assert "as rtn:bits=3" in repr(form)
    bundle = form.save(tmp_path / "bundle")
    np.testing.assert_array_equal(said(form, record)[0], said(clbench.load(bundle), record)[0])
    with pytest.raises(UserError, match="did you mean 'rtn'"):
        clbench.load(record.path).variant("rtm")


@pytest.mark.parametrize(
    "name", ["simplecil", *(pytest.param(each, marks=[pytest.mark.slow]) for each in ("lae", "icarl"))]
)
def test_a_learner_on_few_bits_is_loaded_shipped_and_taught_more(
    name: str, run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    record = run(name, quant={"name": "rtn", "bits": 4})
    learner = clbench.load(record.path)
    np.testing.assert_array_equal(*said(learner, record))
    bundle = learner.save(tmp_path / "bundle")
    np.testing.assert_array_equal(*said(clbench.load(bundle), record))
    with pytest.raises(UserError, match="found nowhere else"):
        learner.save(tmp_path / "other", without_backbone=True)
    new = squares("new.npz", ["fir", "gum"])
    child = learner.learn(f"npz:{new}", settings={"stream": {"validation_rate": 0}}, out=tmp_path / "runs")
    assert child.read_json("hashes.json")["quant"] == record.read_json("hashes.json")["quant"]
    assert (child.path / "quant.safetensors").read_bytes() == (record.path / "quant.safetensors").read_bytes()


def test_a_damaged_form_is_refused_in_one_line(run: Callable[..., Record]) -> None:
    record = run("simplecil", quant={"name": "rtn", "bits": 4})
    file = record.path / "quant.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"quant\.safetensors") as told:
        clbench.load(record.path)
    assert "\n" not in str(told.value)


def test_a_bundle_runs_no_quantiser_that_it_names(run: Callable[..., Record], tmp_path: Path) -> None:
    bundle = clbench.load(run("simplecil", variant=["rtn:bits=4"]).path).variant("rtn:bits=4")
    folder = bundle.save(tmp_path / "bundle")
    about = json.loads((folder / "learner.json").read_text())
    about["variant"]["quant"]["name"] = "evil.py:Evil"
    (folder / "learner.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"in a file that a bundle does not carry.*--quant FILE\.py:NAME"):
        clbench.load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        "no rounding",
        *(pytest.param(each, marks=[pytest.mark.slow]) for each in ("fewer rows", "another kind", "no JSON")),
    ],
)
def test_a_bundle_whose_tensors_do_not_fit_is_refused_in_one_line(
    damage: str, run: Callable[..., Record], tmp_path: Path
) -> None:
    form = clbench.load(run("simplecil", variant=["minmax:bits=4,images=4"]).path).variant(
        "minmax:bits=4,images=4"
    )
    folder = form.save(tmp_path / "bundle")
    about = json.loads((folder / "learner.json").read_text())
    tensors = load_file(folder / "learner.safetensors")
    planes = next(name for name in tensors if name.endswith("planes"))
    if damage == "fewer rows":
        tensors[planes] = tensors[planes][:, 1:].contiguous()
    elif damage == "no rounding":
        about["backbone"]["roundings"] = "{}"
    elif damage == "another kind":
        about["backbone"]["roundings"] = about["backbone"]["roundings"].replace("Uniform", "Fractal")
    else:
        about["backbone"]["roundings"] = "nothing"
    data = save(tensors)
    (folder / "learner.safetensors").write_bytes(data)
    about["tensors"] = hashlib.sha256(data).hexdigest()
    (folder / "learner.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="cannot quantise vit-micro as it was") as told:
        clbench.load(folder)
    assert "\n" not in str(told.value)


def test_what_was_refitted_is_shipped_as_it_was_learnt(run: Callable[..., Record], tmp_path: Path) -> None:
    check(run("simplecil", variant=["rtn:bits=2+refit"]), tmp_path)


def test_a_name_of_ones_own_names_a_variant(run: Callable[..., Record]) -> None:
    record = run("simplecil", variant=[{"name": "small", "quant": {"name": "rtn", "bits": 2}}])
    learner = clbench.load(record.path)
    assert "as small" in repr(learner.variant("small"))
    assert "as small" in repr(learner.variant("rtn:bits=2"))


def test_a_module_that_is_merged_is_neither_shipped_nor_counted(
    run: Callable[..., Record], tmp_path: Path
) -> None:
    record = run("naive", variant=["rtn:bits=4"], petl={"name": "lora"})
    (variant,) = record.spec.variants
    bytes_of = [
        each.read_json("costs.json")["packed_bytes"] for each in (record, variant_record(record, variant))
    ]
    assert bytes_of[0]["petl"] > 0
    assert "petl" not in bytes_of[1]
    folder = clbench.load(record.path).variant("rtn:bits=4").save(tmp_path / "bundle")
    assert not [name for name in load_file(folder / "learner.safetensors") if name.startswith("state/petl")]
