"""Show that costs are counted right: numbers small enough to do by hand, and two that everybody knows."""

from __future__ import annotations

import json
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clbench.evaluate import memory
from clbench.evaluate.costs import (
    PhaseClock,
    bytes_by_kind,
    capacity_bytes,
    count_parameters,
    packed_bytes,
    stored_bytes,
)
from clbench.evaluate.flops import count_flops
from clbench.evaluate.memory import PeakMemory
from clbench.learning.gaussians import Gaussians
from clbench.learning.heads import GrowingHead
from clbench.learning.memory import Memory
from clbench.quant.learnt_low_bit import LearntLowBitLinear

CPU = torch.device("cpu")
MEBIBYTE = 2**20


def test_parameters_are_split_into_backbone_trainable_and_added():
    backbone = nn.Linear(10, 10).requires_grad_(False)  # 110
    online, offline = nn.Linear(10, 2), nn.Linear(10, 2).requires_grad_(False)  # 22 each
    counts = count_parameters(backbone, {"online": online, "offline": offline})
    assert counts == {"total": 154, "trainable": 22, "added": 44, "backbone": 110}


def test_a_parameter_that_two_parts_share_is_counted_once():
    head = nn.Linear(10, 2)
    counts = count_parameters(nn.Linear(3, 3), {"head": head, "whole": nn.Sequential(head, nn.Linear(2, 1))})
    assert counts == {"total": 12 + 25, "trainable": 25, "added": 25, "backbone": 12}


def test_training_the_backbone_adds_nothing():
    backbone = nn.Linear(10, 10)
    counts = count_parameters(backbone, {"tuned": backbone})
    assert counts == {"total": 110, "trainable": 110, "added": 0, "backbone": 110}


def test_stored_bytes_follow_the_type_and_include_buffers():
    prototypes = nn.Module()
    prototypes.register_buffer("images", torch.zeros(5, 3, 4, 4, dtype=torch.uint8))  # 240
    prototypes.register_buffer("scratch", torch.zeros(1000), persistent=False)  # not kept
    parts = {"head": nn.Linear(10, 2), "half": nn.Linear(10, 2).bfloat16(), "memory": prototypes}
    assert stored_bytes(parts) == {"head": 88, "half": 44, "memory": 240, "total": 372}


def test_shared_storage_is_counted_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    view = nn.Module()
    view.register_buffer("rows", first.weight.detach()[1:3])
    parts = {"first": first, "second": second, "view": view}
    assert stored_bytes(parts) == {"first": 64, "second": 0, "view": 0, "total": 64}


def test_packed_bytes_count_the_bits_of_quantised_layers_and_all_of_the_others():
    low = LearntLowBitLinear(10, 4, bits=1)
    nn.init.normal_(low.weight, generator=torch.Generator().manual_seed(0))
    plain = nn.Linear(10, 2)
    parts = {"petl": nn.Sequential(low, plain), "copy": nn.Sequential(plain)}
    assert stored_bytes(parts) == {"petl": 160 + 88, "copy": 0, "total": 248}
    assert packed_bytes(parts) == {"petl": 5 + 8 + 88, "copy": 0, "total": 101}


def test_flops_of_a_product_forward_and_backward():
    inputs, weight = torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    assert count_flops(lambda: inputs @ weight) == 2 * 2 * 3 * 5
    assert count_flops(lambda: (inputs @ weight).sum().backward()) == 3 * 2 * 2 * 3 * 5


def test_flops_of_a_convolution_count_the_input_channels():
    layer = nn.Conv2d(3, 64, kernel_size=3, padding=1)
    assert count_flops(lambda: layer(torch.zeros(1, 3, 32, 32))) == 2 * 1_769_472


def test_fused_attention_counts_as_much_as_its_explicit_form():
    q, k, v = torch.ones(3, 2, 4, 7, 8).unbind(0)  # 2 images, 4 heads, 7 tokens, 8 wide

    def explicit():
        return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v

    products = 2 * 4 * (7 * 7 * 8 + 7 * 7 * 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * products
    assert count_flops(explicit) == 2 * products


def test_backward_of_fused_attention_is_counted():
    q, k, v = (torch.ones(2, 4, 7, 8, requires_grad=True) for _ in range(3))
    product = 2 * (2 * 4 * 7 * 7 * 8)
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert flops == (2 + 5) * product  # backward: the logits again, and a gradient for each factor of the two


def test_flops_of_a_small_vision_transformer_by_hand():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=10)
    patches, tokens, width = 16, 17, 64
    embedding = patches * (3 * 8 * 8) * width
    linear = 12 * tokens * width**2  # qkv 3, projection 1, MLP 4 + 4
    attention = 2 * tokens**2 * width
    head = width * 10
    with torch.inference_mode():
        flops = count_flops(lambda: model(torch.zeros(1, 3, 32, 32)))  # attention is fused here
    assert flops == 2 * (embedding + 2 * (linear + attention) + head)


@pytest.mark.parametrize(("name", "gmac"), [("vit_base_patch16_224", 17.56), ("resnet18", 1.81)])
def test_flops_of_known_models_are_the_known_ones(name, gmac):
    import timm

    with torch.device("meta"):  # shapes without arithmetic
        model = timm.create_model(name, pretrained=False).eval()
        images = torch.zeros(1, 3, 224, 224)
    with torch.inference_mode():
        assert count_flops(lambda: model(images)) / 2e9 == pytest.approx(gmac, abs=0.006)


def test_clock_adds_up_blocks_of_a_phase():
    clock = PhaseClock()
    for _ in range(2):
        with clock.phase("train", images=24):
            time.sleep(0.02)
    with clock.phase("evaluate"):
        pass
    train, evaluate = clock.phases["train"], clock.phases["evaluate"]
    assert train.images == 48
    assert train.seconds >= 0.04
    assert train.images_per_second == train.images / train.seconds
    assert evaluate.seconds < 0.04
    assert evaluate.images_per_second is None


def test_sleeping_takes_no_processor_time_and_computing_does():
    clock = PhaseClock()
    with clock.phase("setup"):
        time.sleep(0.1)
    with clock.phase("train"):
        start = time.process_time()
        while time.process_time() - start < 0.05:
            pass
    assert clock.phases["setup"].cpu_seconds < 0.05
    assert clock.phases["train"].cpu_seconds >= 0.05


def test_a_block_that_fails_counts_its_time_and_no_images():
    clock = PhaseClock()

    def interrupted():
        with clock.phase("train", images=24):
            time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert clock.phases["train"].seconds >= 0.01
    assert clock.phases["train"].images == 0


def test_a_restored_clock_goes_on_from_its_sums():
    clock = PhaseClock()
    with clock.phase("train", images=10):
        time.sleep(0.01)
    saved = clock.to_dict()
    restored = PhaseClock()
    restored.add(json.loads(json.dumps(saved)))
    assert restored.to_dict() == saved
    with restored.phase("train", images=5):
        pass
    assert restored.phases["train"].images == 15
    assert restored.phases["train"].seconds > saved["train"]["seconds"]


def test_peak_is_seen_after_the_memory_is_free_again():
    before = memory.resident_peak()
    if before is None:
        pytest.skip("this system does not tell the peak memory of a process")
    peak = PeakMemory(CPU)
    start = peak.process
    block = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
    del block
    if start < before:  # it could be set back
        assert peak.process >= start + 60 * MEBIBYTE
    assert peak.process >= 64 * MEBIBYTE


def test_a_phase_is_not_charged_with_the_peak_of_another():
    peak = PeakMemory(CPU)
    if not peak.is_resettable:
        pytest.skip("this system does not let the peak memory of a process be set back")
    block = torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
    del block
    peak.lap("train")
    peak.lap("evaluate")
    peaks = peak.to_dict()["process"]
    assert peaks["train"] >= peaks["evaluate"] + 60 * MEBIBYTE
    assert peaks["peak"] == peaks["train"]
    peak.lap("train")
    assert peak.to_dict()["process"]["train"] == peaks["train"]


def test_what_cannot_be_read_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path)  # a folder cannot be written to
    peak = PeakMemory(CPU)
    peak.lap("train")
    peaks = peak.to_dict()
    assert peaks["accelerator"] == {"peak": None, "reserved": None, "train": None}
    assert peaks["process"]["train"] is None
    assert peaks["process"]["peak"] == peak.process


def test_without_proc_the_peak_comes_from_getrusage(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    monkeypatch.setattr(memory.sys, "platform", "darwin")  # counts in bytes
    assert memory.resident_peak() >= expected
    monkeypatch.setattr(memory.sys, "platform", "linux")  # counts in KiB
    assert memory.resident_peak() >= expected * 1024


@pytest.mark.gpu
def test_peak_of_the_accelerator_is_that_of_its_tensors():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    peak = PeakMemory(device)
    block = torch.ones(64 * MEBIBYTE, dtype=torch.uint8, device=device)
    del block
    peak.lap("train")
    peak.lap("evaluate")
    peaks = peak.to_dict()["accelerator"]
    assert peaks["peak"] == peaks["train"] >= peaks["evaluate"] + 64 * MEBIBYTE
    assert peaks["reserved"] >= peaks["peak"]


@pytest.mark.gpu
def test_fused_attention_is_counted_on_the_accelerator():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = torch.ones(3, 2, 4, 16, 64, device="cuda", dtype=dtype, requires_grad=True).unbind(0)
        product = 2 * (2 * 4 * 16 * 16 * 64)
        assert count_flops(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v)) == 2 * product


def test_bytes_are_told_by_what_they_are_kept_for_and_add_up():
    memory = Memory(5)
    memory.reserve((3, 4, 4))  # 240 bytes of images, three numbers of 8 bytes each, and two counts
    memory.count = 2  # of five
    gaussians = Gaussians(6, is_shared=True)  # 6 * 6 * 4 bytes of scatter
    gaussians.grow(2, CPU)  # two means of 6 * 8 bytes, two counts of 8
    inside = nn.Sequential(GrowingHead(4), nn.Linear(3, 2))  # what nobody knows is "other"
    inside[0].grow(2, torch.Generator(), CPU)
    parts = {"memory": memory, "statistics": gaussians, "network": inside}
    kinds = bytes_by_kind(parts)
    assert kinds["exemplars"] == 2 * (48 + 3 * 8) + 2 * 8
    assert (kinds["covariances"], kinds["prototypes"]) == (144, 96 + 16)
    assert (kinds["head"], kinds["other"], kinds["modules"]) == ((8 + 2) * 4, 32, 0)
    assert kinds["model-delta"] == 144 + 112 + 40
    assert kinds["total"] == stored_bytes(parts)["total"] == sum(_sizes(parts)) - 3 * (48 + 3 * 8)
    assert capacity_bytes(parts)["total"] == sum(_sizes(parts))


def _sizes(parts: dict[str, nn.Module]) -> list[int]:
    tensors = [tensor for part in parts.values() for tensor in part.state_dict().values()]
    return [tensor.numel() * tensor.element_size() for tensor in tensors]


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_operations_are_those_that_the_counter_of_torch_counts(context):
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(36, 16), nn.BatchNorm1d(4), nn.GELU()
    )
    images = torch.ones(2, 3, 8, 8)

    def passes() -> None:
        tokens = network(images)
        mixed, _ = attention(tokens, tokens, tokens)
        if torch.is_grad_enabled():
            mixed.sum().backward()

    theirs = FlopCounterMode(display=False)
    with context():
        ours = count_flops(passes)
    plain = torch.no_grad if context is torch.inference_mode else context  # where torch 2.5 misses some
    with plain(), theirs:
        passes()
    assert ours == theirs.get_total_flops() > 0


def test_a_memory_stores_what_it_holds_and_its_capacity_stands_beside():
    memory, head = Memory(5), nn.Linear(10, 2)
    parts = {"head": head, "memory": memory}
    room = 5 * 3 * 8 + 2 * 8  # three numbers a sample, and two counts
    assert stored_bytes(parts) == {"head": 88, "memory": 16, "total": 104}
    memory.reserve((3, 4, 4), logits=((10,), torch.float32))
    assert stored_bytes(parts)["memory"] == 16
    memory.count = 2
    sample = 3 * 4 * 4 + 3 * 8 + 10 * 4
    assert stored_bytes(parts) == {"head": 88, "memory": 2 * sample + 16, "total": 88 + 2 * sample + 16}
    assert packed_bytes(parts) == stored_bytes(parts)
    assert capacity_bytes(parts) == {"head": 88, "memory": room + 5 * (48 + 40), "total": 88 + room + 440}
    memory.count = 5
    assert stored_bytes(parts) == capacity_bytes(parts)
