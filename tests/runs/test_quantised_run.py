"""A run on a backbone of few bits is a run like any other: it resumes, and says what it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal

from clbench import backbones, petl
from clbench.backbones import BackboneOptions
from clbench.errors import UserError
from clbench.options import SpecError
from clbench.quant.low_bit_layers import LowBitLayer
from clbench.quant.rtn import RoundToNearest
from clbench.records.progress import Progress
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.line import execute, resume
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures")

QUICK = ("lora", "ssf", "bitfit", "prefix", "full", "peft.lora-ga", "peft.glora")  # a module of each kind
FOUR_BITS = {"name": "rtn", "bits": 4}


def spec_of(strategy: str, **sections: dict[str, Any]) -> RunSpec:
    stream = {"tasks": "2", "train_per_class": 6, "test_per_class": 4}
    quick = {"epochs": 2, "batch_size": 8} if strategy == "naive" else {}
    return resolve({"stream": stream, "strategy": {"name": strategy, **quick}, **sections})


def run(spec: RunSpec, tmp_path: Path, **more: Any) -> Record:
    return execute(spec, out=tmp_path / "runs", places=Places(None, tmp_path / "cache"), **more)


def test_a_stopped_run_on_few_bits_goes_on_the_same(
    interrupted: Callable[[int], Progress], tmp_path: Path
) -> None:
    spec = spec_of("naive", quant=FOUR_BITS)
    whole = run(spec, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, progress=interrupted(5))
    (folder,) = (each for each in (tmp_path / "runs").iterdir() if each != whole.path)
    gone_on = resume(folder, places=Places(None, tmp_path / "cache"))
    for column, values in whole.predictions().items():
        assert_array_equal(gone_on.predictions()[column], values)
    assert gone_on.read_json("hashes.json") == whole.read_json("hashes.json")


def test_the_cache_tells_forms_of_few_bits_apart(tmp_path: Path) -> None:
    fine, coarse, exact = (
        run(spec_of("simplecil", quant={"name": "rtn", "bits": bits}, **more), tmp_path)
        for bits, more in ((8, {}), (2, {}), (2, {"run": {"exact": True}}))
    )
    assert (fine.predictions()["confidence"] != coarse.predictions()["confidence"]).any()
    for column, values in exact.predictions().items():
        assert_array_equal(coarse.predictions()[column], values)


def test_the_record_says_how_many_bytes_the_backbone_takes(tmp_path: Path) -> None:
    plain, low = run(spec_of("simplecil"), tmp_path), run(spec_of("simplecil", quant=FOUR_BITS), tmp_path)
    of_plain, of_low = (record.read_json("costs.json")["backbone_bytes"]["total"] for record in (plain, low))
    assert of_low < of_plain / 5
    assert plain.spec.quant is None
    assert "quant" not in plain.read_json("hashes.json")
    parameters = [record.read_json("costs.json")["parameters"]["backbone"] for record in (plain, low)]
    assert parameters[0] == parameters[1]  # as many numbers, in fewer bits


@pytest.mark.parametrize(
    "module",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in petl.names()],
)
def test_every_module_learns_on_few_bits_or_refuses_in_one_line(module: str) -> None:
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    size = backbone.preprocessing.image_size
    with torch.no_grad():  # random weights come with biases of zero, which hide what is done to them
        for name, parameter in backbone.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(5))
    form = RoundToNearest(bits=4).quantise(
        backbone, torch.zeros(0, 3, size, size), torch.Generator().manual_seed(0)
    )
    form.settle()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    base = backbone(images)
    if module in ("full", "peft.lora-ga"):
        with pytest.raises(UserError, match=f"^{module} learns the backbone's own weights"):
            petl.get(module)().attach(backbone, torch.Generator().manual_seed(0))
        return
    attached = petl.get(module)().attach(backbone, torch.Generator().manual_seed(0))
    attached.train()
    target = torch.randn(2, backbone.width, generator=torch.Generator().manual_seed(2))
    reached: set[str] = set()
    optimizer = torch.optim.Adam(attached.parameters(), lr=0.01) if attached.num_parameters else None
    for _ in range(attached.petl.steps_to_reach_all if optimizer else 0):
        assert optimizer is not None
        optimizer.zero_grad()
        torch.autograd.backward((backbone(images) - target).square().mean())
        reached |= {name for name, p in attached.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert reached == {name for name, _ in attached.named_parameters()}
    attached.eval()
    with contextlib.suppress(TypeError):  # a weight of few bits takes nothing in
        attached.merge()
    assert not any(site.merges for site in backbone.sites.values() if isinstance(site.layer, LowBitLayer))
    attached.enabled = False
    assert torch.equal(backbone(images), base)


@pytest.mark.parametrize(
    ("quant", "line"),
    [
        ({"name": "rnt"}, "no 'rnt'.*did you mean 'rtn'"),
        ({"name": "rtn", "bits": 5}, "quant.bits: 5 is not allowed"),
        ({"bits": 4}, "quant.bits is given, and no quant that has it"),
        ({"name": "rtn", "bit": 4}, "quant has no option 'bit'; did you mean 'bits'"),
    ],
)
def test_what_is_no_quantiser_is_refused_in_one_line(quant: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as told:
        spec_of("simplecil", quant=quant)
    assert "\n" not in str(told.value)


def test_a_variant_does_not_quantise_what_is_quantised() -> None:
    with pytest.raises(SpecError, match="learns in rtn already"):
        resolve({"quant": FOUR_BITS, "variant": ["rtn:bits=2"]})
    assert resolve({"quant": {"name": "none"}}).id == resolve({}).id
