"""Show that a merged model leaves for plain timm, and that files of the same module are equal to the byte."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from clbench import petl
from clbench.errors import UserError
from clbench.petl.scheduled import scheduled

QUICK = {"full", "ssf", "peft.lora"}
NAMES = [name for name in petl.names() if petl.get(name).mergeable]
MARKED = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(timm.models.VisionTransformer, 16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=3),
    "swin": partial(
        timm.models.SwinTransformer, 32, 4, window_size=4, embed_dim=64, depths=(2, 1), num_heads=(2, 4)
    ),
    "convnext": partial(timm.models.ConvNeXt, depths=(1,) * 4, dims=(64,) * 4, num_classes=3),
    "resnet": partial(timm.models.ResNet, BasicBlock, (1,) * 4, channels=(64,) * 4, num_classes=3),
    "mobilenet": partial(timm.create_model, "mobilenetv3_small_050", num_classes=3),
}


def network(family: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def images(family: str) -> Tensor:
    size = 16 if family == "vit" else 32
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def shake(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    for part in scheduled([module]):
        part.progress.fill_(1)


@pytest.mark.parametrize("name", MARKED)
@torch.no_grad()
def test_timm_loads_what_is_merged_and_computes_the_same(name: str) -> None:
    model = network("vit")
    module = petl.attach(model, name)
    shake(module)
    before = model(images("vit"))
    module.merge()
    plain = network("vit")
    plain.load_state_dict(petl.plain_state_dict(model), strict=True)
    gap = (plain(images("vit")) - before).abs().max() / before.abs().max()
    assert gap < 1e-5
    assert not torch.allclose(before, network("vit")(images("vit"))) or module.num_parameters == 0


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "swin" else pytest.mark.slow) for name in FAMILIES]
)
@torch.no_grad()
def test_every_family_leaves_under_its_own_names(family: str) -> None:
    model, plain = network(family), network(family)
    before = plain(images(family))
    module = petl.attach(model, "full")
    names = list(plain.state_dict())
    assert list(petl.plain_state_dict(model)) == names
    assert list(petl.plain_state_dict(module.backbone)) == names
    module.enabled = False
    plain.load_state_dict(petl.plain_state_dict(model), strict=True)
    assert torch.equal(plain(images(family)), before)


def test_a_plain_model_is_plain_already() -> None:
    model = network("vit")
    assert petl.plain_state_dict(model).keys() == model.state_dict().keys()


def test_what_is_not_merged_does_not_leave_but_switched_off_is_left_behind() -> None:
    model = network("vit")
    module = petl.attach(model, "lora")
    with pytest.raises(
        UserError, match=r"^lora is not merged: call merge\(\) on it, or set its enabled to False$"
    ):
        petl.plain_state_dict(model)
    module.enabled = False
    plain = network("vit").state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in petl.plain_state_dict(model).items())


def test_a_bias_for_which_timm_has_no_place_is_named() -> None:
    model = network("resnet")
    module = petl.attach(model, "ssf")
    module.merge()
    line = r"^merging gave layer1\.0\.conv1 a bias, for which timm's ResNet has no place$"
    with pytest.raises(UserError, match=line):
        petl.plain_state_dict(model)


SAVE = """
import sys, timm, torch
from clbench import petl
torch.manual_seed(0)
model = timm.models.VisionTransformer(16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=3)
backbone = petl.attach(model, "linear").backbone
for name in sys.argv[2:]:
    petl.attach(backbone, name).save(f"{sys.argv[1]}/{name}")
"""


def test_a_module_saved_again_is_the_same_file(tmp_path: Path) -> None:
    module = petl.attach(network("vit"), "lora")
    contents = set()
    for _ in range(8):
        module.save(tmp_path / "lora.safetensors")
        contents.add((tmp_path / "lora.safetensors").read_bytes())
    assert len(contents) == 1


@pytest.mark.slow
def test_files_of_the_same_module_are_equal_to_the_byte_in_two_processes(tmp_path: Path) -> None:
    names = ["lora", "bi-lora", "fact-tk", "full", "peft.pissa", "noah"]
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        subprocess.run([sys.executable, "-c", SAVE, tmp_path / folder, *names], check=True)
    for name in names:
        files = [tmp_path / folder / name for folder in ("first", "second")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_is_as_the_library_writes_it_but_for_the_order(tmp_path: Path) -> None:
    module = petl.attach(network("vit"), "lora")
    module.save(tmp_path / "ours.safetensors")
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "theirs.safetensors", about)
    contents = [(tmp_path / name).read_bytes() for name in ("ours.safetensors", "theirs.safetensors")]
    ends = [8 + int.from_bytes(content[:8], "little") for content in contents]
    first, second = (json.loads(content[8:end]) for content, end in zip(contents, ends, strict=True))
    assert first == second
    assert list(first)[1:] == [key for key in second if key != "__metadata__"]
    assert contents[0][ends[0] :] == contents[1][ends[1] :]
    assert ends[0] % 8 == 0
