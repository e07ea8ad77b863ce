"""Deep Incubation: what learns in which stage, that stages do not know of each other, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load, load_file

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.micro import vit_micro
from clbench.cli.app import main
from clbench.data.tasks import Places
from clbench.pretrain.asked import Asked, asked
from clbench.pretrain.incubation import META, WHOLE, Incubating
from clbench.pretrain.learning import pretrain
from clbench.pretrain.materials import gathered
from clbench.pretrain.parts.accounts import Spent, in_parallel
from clbench.pretrain.parts.division import names_of_modules
from clbench.pretrain.parts.network import Network

FEW = {"train_per_class": 8, "test_per_class": 2}  # 70 images to learn from
SHORT = {"batch_size": 35, "meta_epochs": 1, "module_epochs": 1, "epochs": 1, "modules": 3}  # 2 steps each


def wanted(backbone: str = "vit-micro", method: str = "incubation", **options: object) -> Asked:
    sections = {"pretrain": {**SHORT, **options} if method == "incubation" else options, "stream": FEW}
    return asked(method, backbone=backbone, stream="split-digits", sections=sections)


def course(tmp_path: Path, backbone: str = "vit-micro", **options: object) -> Incubating:
    what = wanted(backbone, **options)
    begun = what.made_method().begin(gathered(what, Places(cache_dir=tmp_path / "cache")))
    assert isinstance(begun, Incubating)
    return begun


def done(incubating: Incubating, *stages: str) -> Incubating:
    """Do some stages to their ends."""
    for name in stages:
        while name not in incubating.results:
            incubating.advance(name)
    return incubating


def copied(network: Network) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in network.tensors().items()}


@pytest.mark.parametrize("backbone", ["vit-micro", "resnet20"])
def test_a_step_changes_the_module_and_nothing_else(backbone: str, tmp_path: Path) -> None:
    incubating = done(course(tmp_path, backbone, drop_path=0.1), META)
    for place, name in enumerate(incubating.modules):
        network = incubating.begun(name).network
        own = set(names_of_modules(network, incubating.division)[place])
        before = copied(network)
        meta = incubating.results[META]
        assert all(torch.equal(before[each], meta[each]) for each in before.keys() - own)
        incubating.advance(name)
        after = network.tensors()
        changed = {each for each in after if not torch.equal(after[each], before[each])}
        assert changed <= own
        assert {each for each in own if each.endswith("weight")} <= changed
        for each, parameter in network.named().items():
            assert (parameter.grad is not None) == (each in network.learning), each


@pytest.fixture
def six_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks for each of three modules."""
    monkeypatch.setattr("clbench.backbones.micro.DEPTH", 6)


@pytest.mark.usefixtures("six_blocks")
def test_blocks_before_the_module_run_without_a_graph_and_gradients_pass_those_behind(
    tmp_path: Path,
) -> None:
    incubating = done(course(tmp_path), META)
    network = incubating.begun("module 2").network
    seen: dict[int, torch.Tensor] = {}
    for block in network.backbone.blocks:
        block[""].register_forward_hook(
            lambda _, inputs, output, index=block.index: seen.__setitem__(index, output)
        )
    incubating.advance("module 2")
    assert sorted(seen) == [0, 2, 3, 4]  # of the meta model 0 and 4; the module is 2 and 3
    assert [seen[index].requires_grad for index in sorted(seen)] == [False, True, True, True]


@pytest.mark.usefixtures("six_blocks")
def test_a_module_that_is_further_back_keeps_less_for_the_backward_pass(tmp_path: Path) -> None:
    incubating = done(course(tmp_path), META, "module 1", "module 2", "module 3", WHOLE)
    kept = [incubating.spent[name].activations for name in incubating.stages]
    meta, *modules, whole = kept
    assert modules == sorted(modules, reverse=True)
    assert meta < modules[0] < whole


def test_modules_can_be_incubated_in_any_order(tmp_path: Path) -> None:
    one = done(course(tmp_path), META, "module 1", "module 2", "module 3")
    other = done(course(tmp_path), META, "module 3", "module 1", "module 2")
    for name in one.modules:
        pairs = zip(one.results[name].values(), other.results[name].values(), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)


def test_the_whole_begins_as_the_modules_put_together(tmp_path: Path) -> None:
    incubating = done(course(tmp_path), META, "module 1", "module 2", "module 3")
    learnt = {
        each: tensor for name in incubating.modules for each, tensor in incubating.results[name].items()
    }
    whole = incubating.network(WHOLE).tensors()
    assert learnt.keys() == whole.keys()
    assert all(torch.equal(whole[name], learnt[name]) for name in whole)


def test_one_module_is_training_end_to_end(tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path / "cache")
    same = {"batch_size": 35, "epochs": 2, "warm_up": 1.0}
    alone = pretrain(wanted(modules=1, **same), tmp_path / "one.safetensors", places=places)
    usual = pretrain(wanted(method="end-to-end", **same), tmp_path / "usual.safetensors", places=places)
    first, second = load_file(alone), load_file(usual)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_make_the_same_file_as_one(tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path / "cache")
    one, two = (
        pretrain(wanted(workers=workers, threads=1), tmp_path / f"{workers}.safetensors", places=places)
        for workers in (1, 2)
    )
    assert one.read_bytes() == two.read_bytes()
    made = json.loads(two.with_suffix(".json").read_text())["examined"]
    stages, cost = made["stages"], made["cost"]
    assert list(stages) == [META, "module 1", "module 2", "module 3", WHOLE]
    assert all(stage["steps"] == 2 for stage in stages.values())
    assert cost["flops"]["sequential"] == sum(stage["flops"] for stage in stages.values())
    assert cost["flops"]["critical_path"] == (
        stages[META]["flops"]
        + max(stages[f"module {number}"]["flops"] for number in (1, 2, 3))
        + stages[WHOLE]["flops"]
    )
    assert made["test"]["images"] == made["assembled"]["test"]["images"] == 20


def test_a_process_that_dies_is_told_of_and_the_same_command_goes_on(tmp_path: Path) -> None:
    from clbench.pretrain.parts.apart import ApartError

    incubating = done(course(tmp_path, workers=2), META)
    incubating.step(2)
    assert incubating.apart is not None
    for worker in incubating.apart.workers:
        worker.process.kill()
    with pytest.raises(ApartError, match=r"the process that incubated module \d ended .*-9.*goes on"):
        [incubating.step(3) for _ in range(9)]
    incubating.close()


@pytest.mark.parametrize("backbone", ["resnet20", "resnet18"])
def test_a_resnet_is_incubated_by_its_stages(backbone: str, tmp_path: Path) -> None:
    incubating = course(tmp_path, backbone, modules=0, batch_size=70, drop_path=0.1)
    for index in range(incubating.num_steps):
        assert np.isfinite(incubating.step(index))
    made = load(incubating.product({}))
    assert {"fc.weight", "fc.bias", "bn1.running_mean"} <= made.keys()
    assert made["bn1.num_batches_tracked"] == 2  # one step of the first module, and one of the whole


def test_what_comes_out_is_taken_by_timm_and_by_a_run(tmp_path: Path) -> None:
    options = {"batch_size": 70, "epochs": 1}
    what = wanted("resnet18", "end-to-end", **options)
    file = pretrain(what, tmp_path / "made.safetensors", places=Places(cache_dir=tmp_path / "cache"))
    model = timm.create_model("resnet18", num_classes=10, checkpoint_path=str(file)).eval()
    backbone = backbones.create("resnet18", BackboneOptions(weights=str(file)))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = backbone(images)
    # bit for bit but for the memory layout that convolutions are computed in
    torch.testing.assert_close(model.forward_head(model.forward_features(images), pre_logits=True), features)
    torch.testing.assert_close(model(images), model.fc(features))


def test_timms_own_vision_transformer_takes_what_comes_out_strictly(tmp_path: Path) -> None:
    file = pretrain(wanted(), tmp_path / "made.safetensors", places=Places(cache_dir=tmp_path / "cache"))
    model = vit_micro(num_classes=10).eval()
    model.load_state_dict(load_file(file))
    backbone = backbones.create("vit-micro", BackboneOptions(weights=str(file)))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), model.head(backbone(images)))


def test_the_command_says_what_it_is_worth_and_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    options = {"pretrain": {**SHORT, "divided_depths": "1,3", "modules": 0}, "stream": FEW}
    words = [f"{kind}.{name}={value}" for kind, own in options.items() for name, value in own.items()]
    settings = [word for each in words for word in ("--set", each)]
    command = ["pretrain", "incubation", "--backbone", "vit-micro", "--stream", "split-digits"]
    assert main([*command, *settings, "--device", "cpu", "--out", "made.safetensors"]) == 0
    printed, told = capsys.readouterr()
    assert "modules of 1, 3 blocks, incubated in a meta model of 1, 1" in told
    assert "step     8/8  whole  loss " in told
    rows = [line.split() for line in printed.splitlines()]
    assert ["on", "images", "assembled", "fine-tuned"] in rows
    assert [row[:3] for row in rows if row[:1] == ["test"]] == [["test", "images", "20"]]
    assert [" ".join(row[:2]) for row in rows if "FLOP" in " ".join(row)] == [
        *("meta model", "module 1", "module 2", "whole 2", "one after", "modules at"),
    ]
    assert "written: made.safetensors and made.json, which says how it was made" in printed


def test_costs_of_the_critical_path_by_hand() -> None:
    meta, first, second, whole = (Spent(10, 1.0, flops) for flops in (3, 5, 7, 11))
    cost = in_parallel([meta], [first, second], [whole])
    assert cost["flops"] == {"sequential": 260, "critical_path": 210}
    assert cost["seconds"] == {"sequential": 4.0, "critical_path": 3.0}
    assert Spent.from_tensor(Spent(3, 1.5, 2**52 + 1, 7, 9).to_tensor()) == Spent(3, 1.5, 2**52 + 1, 7, 9)
