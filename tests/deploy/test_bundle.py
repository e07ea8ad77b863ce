"""A bundle needs nothing beside it, holds no picture unless asked, and runs no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import clbench
from clbench import Record, UserError

SOME = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
MINE = '''"""A strategy of one's own."""

from dataclasses import dataclass

from torch.nn import functional as F

from clbench.learning.classifier import Classifier
from clbench.strategies import Strategy


@dataclass
class Mine(Strategy):
    def setup(self, backbone, petl, seeds):
        self.learner = Classifier(backbone, petl, seeds, self.head_bits)

    def parts(self):
        return self.learner.parts()

    def begin_task(self, task):
        self.learner.grow(task)

    def loss(self, batch):
        return F.cross_entropy(self.learner.logits(batch), batch.labels)

    def predict(self, inputs):
        return self.learner.logits(inputs)PLUS
'''


def names_in(bundle: Path) -> list[str]:
    with safe_open(bundle / "learner.safetensors", "pt") as opened:
        return sorted(opened.keys())


def test_a_bundle_needs_neither_the_run_nor_the_data(run: Callable[..., Record], tmp_path: Path) -> None:
    import shutil

    record = run("lae")
    learner = clbench.load(record.path)
    bundle = learner.save(tmp_path / "bundle")
    shutil.rmtree(record.path)
    (tmp_path / "old.npz").unlink()
    assert sorted(path.name for path in bundle.iterdir()) == ["learner.json", "learner.safetensors"]
    assert torch.equal(clbench.load(bundle).predict(SOME).scores, learner.predict(SOME).scores)
    about = json.loads((bundle / "learner.json").read_text())
    assert about["class_names"] == ["ash", "birch", "cedar", "elm"]
    assert about["backbone"]["is_included"]


def test_a_light_bundle_names_the_backbone_by_its_hash(run: Callable[..., Record], tmp_path: Path) -> None:
    learner = clbench.load(run().path)
    bundle = learner.save(tmp_path / "light", without_backbone=True)
    assert not [name for name in names_in(bundle) if name.startswith("backbone/")]
    about = json.loads((bundle / "learner.json").read_text())
    assert about["backbone"]["digest"] == learner.backbone.weights_digest
    assert torch.equal(clbench.load(bundle).predict(SOME).scores, learner.predict(SOME).scores)


def test_nothing_is_overwritten(run: Callable[..., Record], tmp_path: Path) -> None:
    learner = clbench.load(run().path)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already; nothing is overwritten"):
        learner.save(tmp_path / "there")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["icarl", "er", "derpp"])
def test_pictures_are_left_out_unless_asked_for(
    strategy: str, run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    learner = clbench.load(run(strategy).path)
    bundle = learner.save(tmp_path / "bundle")
    assert not [name for name in names_in(bundle) if "/memory/" in name]
    bare = clbench.load(bundle)
    assert torch.equal(bare.predict(SOME).scores, learner.predict(SOME).scores)
    again = clbench.load(bare.save(tmp_path / "again"))
    assert torch.equal(again.predict(SOME).scores, learner.predict(SOME).scores)
    new = squares("new.npz", ["fir", "gum"])
    with pytest.raises(
        UserError, match=r"was saved without what strategy .* learns on with, such as memory/"
    ):
        bare.learn(f"npz:{new}", out=tmp_path / "runs")
    with pytest.raises(UserError, match="has no exemplars"):
        bare.save(tmp_path / "third", with_exemplars=True)

    whole = clbench.load(learner.save(tmp_path / "whole", with_exemplars=True))
    settings = {"stream": {"validation_rate": 0}}
    (tmp_path / "old.npz").unlink()  # the memory's own pictures are enough
    child = whole.learn(f"npz:{new}", settings=settings, out=tmp_path / "runs")
    assert clbench.load(child.path).class_names[4:] == ["fir", "gum"]
    assert child.read_json("matrix.json")["accuracy"][2][:2] == [None, None]  # no old test images


@pytest.mark.parametrize(
    ("strategy", "without"),
    [
        ("ranpac", "regression/gram"),
        pytest.param("ewc", "importance", marks=pytest.mark.slow),
        pytest.param("si", "importance", marks=pytest.mark.slow),
        pytest.param("er", "memory/items", marks=pytest.mark.slow),
    ],
)
def test_who_only_predicts_needs_no_more(
    strategy: str, without: str, run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    learner = clbench.load(run(strategy).path)
    small = learner.save(tmp_path / "small", predict_only=True)
    whole = learner.save(tmp_path / "whole", with_exemplars=True)
    assert set(names_in(small)) < set(names_in(whole))
    bare = clbench.load(small)
    assert [name for name in bare.left_out if without in name]
    assert torch.equal(bare.predict(SOME).scores, learner.predict(SOME).scores)
    with pytest.raises(UserError, match=f"was saved without what strategy {strategy} learns on with"):
        bare.learn(f"npz:{squares('new.npz', ['fir'])}", out=tmp_path / "runs")
    with pytest.raises(UserError, match="who only predicts needs no exemplars"):
        learner.save(tmp_path / "third", with_exemplars=True, predict_only=True)


@pytest.mark.slow
def test_a_memory_that_is_not_full_takes_what_it_holds(run: Callable[..., Record], tmp_path: Path) -> None:
    learner = clbench.load(run("er", strategy={"memory_size": 500}).path)
    whole = clbench.load(learner.save(tmp_path / "whole", with_exemplars=True))
    with safe_open(tmp_path / "whole" / "learner.safetensors", "pt") as opened:
        assert opened.get_slice("state/memory/items").get_shape()[0] == 48  # all that it was offered
    one, other = learner.checkpoint.tensors, whole.checkpoint.tensors
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.state_digest() == learner.state_digest()


def test_low_bits_are_stored_packed_and_learn_no_more(
    run: Callable[..., Record], squares: Callable[..., Path], tmp_path: Path
) -> None:
    record = run("lae", petl={"name": "bi-adapter", "bits": 1}, strategy={"head_bits": 1})
    learner = clbench.load(record.path)
    bundle = learner.save(tmp_path / "bundle")
    packed = clbench.load(bundle)
    assert torch.equal(packed.predict(SOME).scores, learner.predict(SOME).scores)
    assert packed.is_packed
    assert [name for name in names_in(bundle) if name.endswith(("/codes", ".codes"))]
    parts = learner.strategy.parts().values()
    whole = sum(each.nbytes for part in parts for each in part.state_dict().values())
    with safe_open(bundle / "learner.safetensors", "pt") as opened:
        names = [name for name in names_in(bundle) if name.startswith("state/")]
        stored = sum(opened.get_tensor(name).nbytes for name in names)
    assert stored < whole / 4
    with pytest.raises(UserError, match="low-bit layers as they are stored, which learn no more"):
        packed.learn(f"npz:{squares('new.npz', ['fir', 'gum'])}", out=tmp_path / "runs")


def test_what_is_changed_or_no_bundle_is_one_line(run: Callable[..., Record], tmp_path: Path) -> None:
    bundle = clbench.load(run().path).save(tmp_path / "bundle")
    tensors, about = bundle / "learner.safetensors", bundle / "learner.json"
    data, text = tensors.read_bytes(), about.read_text()
    tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"learner\.safetensors has changed since it was written"):
        clbench.load(bundle)
    tensors.write_bytes(data)
    value = json.loads(text)
    for broken in (
        "{",
        "[]",
        "{}",
        text[:100],
        json.dumps({**value, "history": 3}),
        json.dumps({**value, "spec": {}}),
    ):
        about.write_text(broken)
        with pytest.raises(UserError) as error:
            clbench.load(bundle)
        assert "learner.json" in str(error.value)
        assert "\n" not in str(error.value)
    about.write_text(json.dumps({**value, "format": 9}))
    with pytest.raises(UserError, match="is of format 9, and this version of clbench reads 1"):
        clbench.load(bundle)


def test_a_strategy_in_a_file_has_to_be_named_again(
    run: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE.replace("PLUS", ""))
    record = run("mine.py:Mine", petl={"name": "adapter"})
    learner = clbench.load(record.path)
    bundle = learner.save(tmp_path / "bundle")
    with pytest.raises(UserError, match=r"in a file that a bundle does not carry.*--strategy FILE.py:NAME"):
        clbench.load(bundle)
    found = clbench.load(bundle, strategy="mine.py:Mine")
    assert torch.equal(found.predict(SOME).scores, learner.predict(SOME).scores)
    assert found.origin.id == record.spec.id
    again = json.loads((found.save(tmp_path / "again") / "learner.json").read_text())
    assert again["run"] == record.spec.id
    Path("other.py").write_text(MINE.replace("PLUS", " + 1"))
    with pytest.raises(UserError, match=r"the file of strategy other\.py:Mine has changed since it learnt"):
        clbench.load(bundle, strategy="other.py:Mine")


EVIL = """from pathlib import Path
Path("ran").write_text("")
"""


@pytest.mark.slow
def test_no_code_that_a_bundle_names_is_run(
    run: Callable[..., Record],
    squares: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = clbench.load(run().path).save(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    value = json.loads((bundle / "learner.json").read_text())
    for section in ("strategy", "petl", "backbone"):
        spec = {**value["spec"], section: {**value["spec"][section], "name": "evil.py:Evil"}}
        (bundle / "learner.json").write_text(json.dumps({**value, "spec": spec}))
        with pytest.raises(UserError, match=f"the {section} of .* is evil.py:Evil"):
            clbench.load(bundle)
    (chapter,) = value["history"]["chapters"]
    chapter["stream"]["name"] = "evil.py:Evil"
    value["spec"]["run"]["metrics"] = "evil.py:evil"
    value["spec"]["stream"]["name"] = "evil.py:Evil"
    (bundle / "learner.json").write_text(json.dumps(value))
    learner = clbench.load(bundle)
    learner.predict(SOME)
    record = learner.learn(f"npz:{squares('new.npz', ['fir'])}", out=tmp_path / "runs")
    assert clbench.load(record.path).num_tasks == 3
    assert not Path("ran").exists()


def test_what_predicts_by_more_than_its_parts_is_not_saved(
    run: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hidden = MINE.replace("PLUS", " * torch.randn(1)").replace("from torch.nn", "import torch\nfrom torch.nn")
    Path("hidden.py").write_text(hidden)
    learner = clbench.load(run("hidden.py:Mine", petl={"name": "adapter"}).path)
    with pytest.raises(UserError, match="does not predict the same when it is loaded again"):
        learner.save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
