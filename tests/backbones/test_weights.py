"""Show that a file of weights is loaded completely or refused in one line."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numpy.lib.format import write_array_header_1_0
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.architecture import Architecture
from clbench.backbones.backbone import Backbone
from clbench.backbones.creation import architecture
from clbench.backbones.micro import FirstViTMicro, first_vit_micro
from clbench.backbones.weights import WeightsError, load_weights, weights_digest
from clbench.errors import UserError
from clbench.outside.finite import NotFiniteError

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain Vision Transformer, as releases of others are, goes by the name of vit-micro."""

    def plain_architecture(name: str) -> Architecture:
        return FirstViTMicro() if name == "vit-micro" else architecture(name)

    monkeypatch.setattr("clbench.backbones.creation.architecture", plain_architecture)


@pytest.fixture
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return {name: torch.randn_like(tensor) for name, tensor in first_vit_micro().state_dict().items()}


def load(file: Path, name: str = "vit-micro", image_size: int = 0) -> Backbone:
    return backbones.create(name, BackboneOptions(weights=str(file), image_size=image_size))


def digest_of(state: State) -> str:
    model = first_vit_micro()
    model.load_state_dict(state)
    return weights_digest(model)


def write(state: State, file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return file


def released(state: State) -> dict[str, np.ndarray]:
    """The arrays of a ViT under the names and in the layout of the original release."""
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": torch.zeros(128, 21843),
        "head/bias": torch.zeros(21843),
    }
    for index in range(6):
        ours, theirs = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            arrays[f"{theirs}/LayerNorm_{number}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/LayerNorm_{number}/bias"] = state[f"{ours}.{norm}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        weights = state[f"{ours}.attn.qkv.weight"].view(3, 4, 32, 128)
        for place, part in enumerate(("query", "key", "value")):
            arrays[f"{attention}/{part}/kernel"] = weights[place].permute(2, 0, 1)
            arrays[f"{attention}/{part}/bias"] = state[f"{ours}.attn.qkv.bias"].view(3, 4, 32)[place]
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(4, 32, 128)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for place in (0, 1):
            dense = f"{theirs}/MlpBlock_3/Dense_{place}"
            arrays[f"{dense}/kernel"] = state[f"{ours}.mlp.fc{place + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{ours}.mlp.fc{place + 1}.bias"]
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in arrays.items()}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin"])
def test_saved_weights_are_loaded_exactly(name: str, state: State, tmp_path: Path) -> None:
    backbone = load(write(state, tmp_path / name))
    assert backbone.weights_digest == digest_of(state)
    assert backbone.weights_source == name


def test_weights_of_the_original_release_are_loaded_exactly(state: State, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **released(state))
    assert load(tmp_path / "w.npz").weights_digest == digest_of(state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {**state, "head.weight": torch.zeros(10, 128), "head.bias": torch.zeros(10)},
        lambda state: {"model": state},
        lambda state: {
            "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
            "epoch": 3,
        },
    ],
    ids=["with a classifier", "under a key", "of a parallel training"],
)
def test_usual_wrappings_are_taken_off(wrap: Callable[[State], State], state: State, tmp_path: Path) -> None:
    assert load(write(wrap(state), tmp_path / "w.pth")).weights_digest == digest_of(state)


def test_half_precision_is_cast_up(state: State, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    backbone = load(write(half, tmp_path / "w.safetensors"))
    assert backbone.weights_digest == digest_of({name: tensor.float() for name, tensor in half.items()})


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_position_embedding_is_interpolated_to_another_image_size(
    suffix: str, state: State, tmp_path: Path
) -> None:
    state["pos_embed"][:, 1:] = 3.0  # a constant stays what it is, whatever the interpolation
    file = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(file, **released(state))
    else:
        write(state, file)
    embedding = load(file, image_size=64).model.pos_embed
    assert embedding.shape == (1, 1 + 8 * 8, 128)
    assert torch.equal(embedding[:, :1], state["pos_embed"][:, :1])
    torch.testing.assert_close(embedding[:, 1:], torch.full((1, 64, 128), 3.0))


def test_interpolation_is_timms(state: State, tmp_path: Path) -> None:
    backbone = load(write(state, tmp_path / "w.safetensors"), image_size=64)
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[8, 8], num_prefix_tokens=1)
    assert torch.equal(backbone.model.pos_embed, expected)
    packed = first_vit_micro()  # with the weights of the package it is the embedding of the package
    load_weights(packed, Path(backbones.__file__).parent / "weights" / "vit-micro-1.safetensors")
    expected = resample_abs_pos_embed(packed.pos_embed, new_size=[8, 8], num_prefix_tokens=1)
    larger = backbones.create("vit-micro", BackboneOptions(image_size=64))
    assert torch.equal(larger.model.pos_embed, expected)


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: without(s, "norm.bias"), "lacks 1 tensor(s): norm.bias"),
        (
            lambda s: {**s, "blocks.6.norm1.bias": torch.zeros(128)},
            "has, unlike this model, 1 tensor(s): blocks.6",
        ),
        (lambda s: {**s, "norm.bias": torch.zeros(64)}, "norm.bias is (64,) in"),
        (lambda s: {**s, "pos_embed": torch.zeros(1, 17, 64)}, "pos_embed is (1, 17, 64) in"),
        (
            lambda s: {**s, "pos_embed": torch.zeros(1, 16, 128)},
            "not those of a VisionTransformer of this size",
        ),
        (lambda s: {**s, "patch_embed.proj.weight": torch.zeros(128, 3, 16, 16)}, "is (128, 3, 16, 16) in"),
        (lambda s: {"a": torch.zeros(1)}, "lacks 78 tensor(s): blocks.0.attn.proj.bias, "),
        (lambda s: {}, "lacks 78 tensor(s)"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_do_not_fit_are_refused_in_one_line(
    change: Callable[[State], State], line: str, suffix: str, state: State, tmp_path: Path
) -> None:
    file = write(change(state), tmp_path / f"w{suffix}")
    with pytest.raises(WeightsError) as caught:
        load(file)
    assert line in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (open, ("owned",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", b""),
        ("w.safetensors", b"garbage" * 100),
        ("w.safetensors", None),
        ("w.pth", b""),
        ("w.pth", b"garbage" * 100),
        ("w.pth", None),
        ("w.pth", pickle.dumps([1, 2, 3])),
        ("w.pth", pickle.dumps({"norm.bias": Evil()})),
        ("w.npz", b""),
        ("w.npz", b"garbage" * 100),
        ("w.npz", None),
    ],
)
def test_unreadable_file_is_refused_in_one_line(
    name: str, content: bytes | None, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    if content is None:  # a good one, cut in the middle
        if file.suffix == ".npz":
            np.savez(file, **released(state))
        else:
            write(state, file)
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read") as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("owned").exists()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone\.weights: no file .*w\.pth"):
        load(tmp_path / "w.pth")
    with pytest.raises(UserError, match="'nune' is neither default, none nor a file"):
        load(Path("nune"))
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UserError, match=r"no file .*folder\.pth"):
        load(tmp_path / "folder.pth")


def test_original_release_of_another_network_is_refused(state: State, tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    np.savez(file, **released(state))
    with pytest.raises(
        WeightsError, match="holds a ViT of 6 blocks and patch size 8; this one has 12 and 16"
    ):
        load(file, "vit_tiny_patch16_224")
    with pytest.raises(WeightsError, match=r"an \.npz holds a ViT, this is a ResNet"):
        load(file, "slim-resnet18")
    np.savez(file, train_x=np.zeros(3))
    with pytest.raises(WeightsError, match="cannot read"):
        load(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_a_weight_that_is_no_number_is_named_with_its_file(suffix: str, state: State, tmp_path: Path) -> None:
    state["norm.bias"][3] = torch.nan
    file = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(file, **released(state))
    else:
        write(state, file)
    with pytest.raises(NotFiniteError) as caught:
        load(file)
    line = f"backbone.weights: {file}: norm.bias holds nan or inf in 1 of 128 places, the first nan at [3]"
    assert str(caught.value) == line


def test_weights_beyond_half_precision_are_told_with_its_name(state: State, tmp_path: Path) -> None:
    state["norm.bias"][3] = 3.4e38  # rounds to infinity in bf16
    options = BackboneOptions(weights=str(write(state, tmp_path / "w.safetensors")), dtype="bf16")
    with pytest.raises(NotFiniteError, match=r"w\.safetensors weights, bf16\): norm\.bias holds"):
        backbones.create("vit-micro", options)


def test_published_weights_out_of_reach_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot get the published weights of vit_tiny_patch16_224") as caught:
        backbones.create("vit_tiny_patch16_224")
    assert "--set backbone.weights=FILE.safetensors" in str(caught.value)
    assert "--set backbone.weights=none" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_digest_is_over_names_types_shapes_and_values() -> None:
    def digest(**tensors: Tensor) -> str:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_digest(module)

    one, two = torch.ones(2), torch.zeros(2)
    assert digest(a=one, b=two) == digest(b=two, a=one)
    others = [digest(a=two, b=one), digest(a=one), digest(a=one, b=two.int()), digest(a=one[None], b=two)]
    assert len({digest(a=one, b=two), *others}) == 5


@pytest.mark.data
def test_real_vit_tiny_loads_at_its_own_and_at_another_size(data_folder: Path) -> None:
    file = data_folder / "vit_tiny_patch16_224.safetensors"
    native, small = (load(file, "vit_tiny_patch16_224", image_size=size) for size in (0, 96))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert native(images).isfinite().all()
    assert small(images[..., :96, :96]).isfinite().all()
    assert small.grid == (6, 6)
    assert native.weights_digest != small.weights_digest


@pytest.mark.parametrize(
    ("name", "file", "is_taken"),
    [
        ("test_vit", "test_vit", True),
        ("test_vit", "test_vit.r160_in1k", True),  # what timm takes where no tag is given
        ("test_vit.r160_in1k", "test_vit.r160_in1k", True),
        ("test_vit.r160_in1k", "test_vit", False),  # may be those of another tag
        ("test_vit", "test_vit2", False),
        ("resnet20", "resnet20", True),
    ],
)
def test_published_weights_that_lie_beside_the_data_are_taken_and_said(
    name: str, file: str, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    chosen = architecture(name).build()
    with torch.no_grad():
        for parameter in chosen.parameters():
            parameter.uniform_()
    path = tmp_path / f"{file}.safetensors"
    save_file(chosen.state_dict(), path)
    if not is_taken:
        with pytest.raises(WeightsError, match=rf"put {name}\.safetensors into the --data-dir"):
            backbones.create(name, folder=tmp_path)
        return
    backbone = backbones.create(name, folder=tmp_path)
    assert backbone.weights_digest == weights_digest(chosen)
    assert backbone.weights_source == path.name
    assert backbone.notes == [f"weights: {path}, found beside the data"]
    random = backbones.create(name, BackboneOptions(weights="none"), folder=tmp_path)
    assert random.weights_digest != backbone.weights_digest
    assert random.notes == []


def test_weights_beside_the_data_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "resnet20.safetensors")
    with pytest.raises(WeightsError, match=r"resnet20\.safetensors") as refusal:
        backbones.create("resnet20", folder=tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("claimed", [1 << 40, 1 << 62])
def test_weights_that_claim_more_than_their_file_holds_are_refused(claimed: int, tmp_path: Path) -> None:
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (claimed,)}
    write_array_header_1_0(stream, header)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("embedding/kernel.npy", stream.getvalue())
    with pytest.raises(WeightsError, match=r"w\.npz .*embedding/kernel claims"):
        load(tmp_path / "w.npz")
    np.savez_compressed(tmp_path / "w.npz", **{"embedding/kernel": np.zeros((1000, 1000), np.float32)})
    with pytest.raises(WeightsError, match="bytes claim to hold 4000000"):
        load(tmp_path / "w.npz")
