"""Show that what Hugging Face peft saved of a timm model computes the same here, or is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from peft import mapping
from peft.utils import PeftType
from torch import Tensor, nn

from clbench import petl
from clbench.errors import UserError
from clbench.petl.hugging_face import PeftMethod

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
# options for layers of width 64, where the defaults are too large
SMALL: dict[str, dict[str, Any]] = {"peft.oft": {"block_size": 32}}
NOT_READ = {
    "peft.lora-ga",  # peft takes the start off the weights themselves
    "peft.unilora",  # nothing in the file tells the layers
}
QUICK = {"peft.dora", "peft.ia3"}
NAMES = [name for name in petl.names() if name.startswith("peft.")]
MARKED = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.models.VisionTransformer(16, 8, embed_dim=64, depth=2, num_heads=2, num_classes=3)
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def config_of(name: str, **fields: Any) -> Any:
    """What a user of peft writes for the method."""
    method = petl.get(name)
    assert issubclass(method, PeftMethod)
    config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method.method)]
    options = method(**SMALL.get(name, {})).options()
    if name == "peft.ia3":
        return config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"])
    if name == "peft.adalora":
        options |= {"target_r": 4, "total_step": 100}
    return config(**{"target_modules": ["qkv", "fc1"], **options, **fields})


def saved(config: Any, folder: Path, *, changed: bool = True) -> Tensor:
    """Save a module as its users do; return what the model with it computes."""
    model = peft.get_peft_model(vit(), config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and changed:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        output: Tensor = model.eval()(images())
    return output


@pytest.mark.parametrize("name", [each for each in MARKED if each.values[0] not in NOT_READ])
@torch.no_grad()
def test_what_peft_saved_computes_the_same_here(name: str, tmp_path: Path) -> None:
    expected = saved(config_of(name), tmp_path)
    model = vit()
    module = petl.load(model, tmp_path)
    assert type(module.petl) is petl.get(name) or name == "peft.orthogonal-lora"
    torch.testing.assert_close(model(images()), expected, atol=1e-5, rtol=1e-5)
    module.save(tmp_path / "ours.safetensors")
    again = vit()
    petl.load(again, tmp_path / "ours.safetensors")
    torch.testing.assert_close(again(images()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["peft.unilora"])
def test_what_does_not_tell_its_layers_is_named(name: str, tmp_path: Path) -> None:
    saved(config_of(name), tmp_path)
    with pytest.raises(
        UserError, match=rf"holds {petl.get(name).method}, saved by peft: .*base_model\.\w+"
    ) as caught:
        petl.load(vit(), tmp_path)
    assert "\n" not in str(caught.value)


def test_the_file_of_tensors_stands_for_its_folder_and_a_saved_classifier_comes_along(tmp_path: Path) -> None:
    expected = saved(peft.LoraConfig(r=4, target_modules=["qkv"], modules_to_save=["head"]), tmp_path)
    model = vit()
    petl.load(model, tmp_path / "adapter_model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model(images()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            peft.LoraConfig(target_modules=["qkv"], bias="lora_only"),
            "bias='lora_only', which peft.lora has not",
        ),
        (peft.LoraConfig(target_modules=["qkv"], rank_pattern={"1.attn.qkv": 2}), "rank_pattern={"),
        (peft.LoraConfig(target_modules=r"blocks\.1\.attn\.qkv"), "in block 1 only"),
        (
            peft.LoraConfig(target_modules=["patch_embed.proj"]),
            "patch_embed.proj.lora_A.weight belongs to no",
        ),
        (peft.LoraConfig(target_modules=["qkv", "head"]), "head.lora_A.weight has no place in this module"),
        (
            peft.LNTuningConfig(target_modules=["norm1"]),
            "it trains norms, not linear layers; here: norm-tuning",
        ),
    ],
)
def test_what_no_module_here_computes_is_named_in_one_line(config: Any, line: str, tmp_path: Path) -> None:
    saved(config, tmp_path)
    model = vit()
    names = list(model.state_dict())
    with pytest.raises(UserError) as caught:
        petl.load(model, tmp_path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            lambda folder: (folder / "adapter_config.json").unlink(),
            "its adapter_config.json is not beside it",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot read adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "does not say which method"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "NEW"}'),
            "no peft.<method>",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"{"), "cannot read"),
    ],
)
def test_a_spoilt_folder_is_one_line(spoil, line: str, tmp_path: Path) -> None:
    saved(peft.LoraConfig(r=4, target_modules=["qkv"]), tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        petl.load(vit(), tmp_path / "adapter_model.safetensors")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    saved(peft.LoraConfig(r=4, target_modules=["qkv"], use_dora=True), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(UserError, match=r"block\[0\].attn.qkv: lora_A.weight is \(4, 64\), not \(8, 64\)"):
        petl.load(vit(), tmp_path)
