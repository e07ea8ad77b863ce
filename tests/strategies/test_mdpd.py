"""Show that two paths teach each other over disjoint parameters, and that the side network fades."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone
from clbench.data.batches import Batcher
from clbench.data.inputs import Batch, sight
from clbench.data.samples import Samples
from clbench.errors import UserError
from clbench.evaluate.meter import Meter
from clbench.learning.losses.distillation import distillation
from clbench.petl.parts.norms import norm_parameters
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.strategies import Strategy, Task
from clbench.testing.generated import generated_stream, small_backbone

MODES = ["ln", "final_norm", "head"]
NOTHING = Samples(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def task(index: int, classes: list[int]) -> Task:
    return Task(index, classes, classes, NOTHING, NOTHING, NOTHING)


def learner(backbone: Backbone | None = None, module: str = "lst", **options: object) -> Strategy:
    """A learner that has begun a task of three classes."""
    made = strategies.get("mdpd")(**options)
    made.setup(backbone or small_backbone(), petl.get(module)(), Seeds(0))
    made.begin_task(task(0, [0, 1, 2]))
    return made


def batch(number: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return sight(torch.randn(number, 3, 8, 8, generator=generator), [place % 3 for place in range(number)])


@torch.no_grad()
def shake(made: Strategy) -> None:
    """Change all that learns, as training would."""
    for part in made.parts().values():
        for parameter in part.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            parameter.add_(0.1 * noise)


def reached(part: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in part.parameters())


def test_the_backbone_learns_from_the_side_networks_opinion_alone() -> None:
    side = torch.tensor([[math.log(3), 0.0]], requires_grad=True)
    own = torch.zeros(1, 2, requires_grad=True)
    loss = distillation(own, side, temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)
    assert side.grad is None
    torch.testing.assert_close(own.grad, torch.tensor([[-0.25, 0.25]]))


@pytest.mark.parametrize("mode", MODES)
def test_step_a_reaches_the_side_network_and_step_b_the_backbones_part(mode: str) -> None:
    made = learner(backbone_train=mode)
    shake(made)
    parts = made.parts()
    side_parts, own_parts = ("petl side", "side head", "distillation"), ("petl", "head")
    side, own, seen = made.both_paths(batch())
    made.side_loss(side, seen, batch()).backward(retain_graph=True)
    assert not any(reached(parts[kind]) for kind in own_parts)
    for kind in side_parts:
        for name, parameter in parts[kind].named_parameters():
            assert parameter.grad is not None, name
        parts[kind].zero_grad()
    made.backbone_loss(own, side, batch()).backward()
    assert not any(reached(parts[kind]) for kind in side_parts)
    assert reached(parts["head"])
    assert reached(parts["petl"]) == (mode != "head")


@pytest.mark.parametrize("mode", MODES)
def test_one_backward_pass_of_the_sum_is_both_steps(mode: str) -> None:
    made = learner(backbone_train=mode)
    shake(made)
    gradients: list[dict[str, Tensor]] = []
    for together in (True, False):
        side, own, seen = made.both_paths(batch())
        if together:
            made.loss(batch()).backward()
        else:
            made.side_loss(side, seen, batch()).backward(retain_graph=True)
            made.backbone_loss(own, side, batch()).backward()
        named = {
            f"{kind} {name}": each
            for kind, part in made.parts().items()
            for name, each in part.named_parameters()
        }
        gradients.append({name: each.grad.clone() for name, each in named.items()})
        for part in made.parts().values():
            part.zero_grad()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize(("mode", "keeps"), [("ln", True), ("final_norm", False), ("head", False)])
def test_what_is_kept_of_a_block_for_the_backward_pass(mode: str, keeps: bool) -> None:
    backbone = small_backbone()
    made = learner(backbone, backbone_train=mode)
    inside: dict[int, Tensor] = {}  # which keeps what it notes, so that no storage is used twice
    kept: list[int] = []

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            inside[output.untyped_storage().data_ptr()] = output

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    for block in backbone.blocks:
        for name, part in block[""].layer.named_modules():
            if name not in ("", "input"):  # the input is what leaves the block before
                part.register_forward_hook(note)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made.loss(batch())
    assert inside
    assert bool(inside.keys() & set(kept)) == keeps


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_faded_it_predicts_bit_for_bit_what_it_predicted_before(mode: str) -> None:
    backbone = small_backbone()
    plain = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    made = learner(backbone, backbone_train=mode)
    shake(made)
    images, own = batch(), made.both_paths(batch())[1]
    before = made.predict(images)
    assert torch.equal(before, torch.softmax(own, dim=1))
    made.become("faded")
    assert torch.equal(made.predict(images), before)
    assert not any(site.is_active or site.attached for site in backbone.sites.values())  # the plain forward
    names = [f"{kind} {name}" for kind, part in made.parts().items() for name in part.state_dict()]
    assert not any("side" in name for name in names)
    counted = sum(each.numel() for part in made.parts().values() for each in part.parameters())
    assert counted == {"ln": 4 * 3 * 32 + 64, "final_norm": 64, "head": 0}[mode] + 3 * 33
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, plain[name])}
    if mode == "head":
        assert not changed
    assert changed <= set(norm_parameters(backbone))
    with pytest.raises(AttributeError):
        made.side  # noqa: B018  # it is gone


@torch.no_grad()
def test_as_its_side_variant_it_predicts_by_the_side_network() -> None:
    made = learner()
    shake(made)
    side, own, _ = made.both_paths(batch())
    made.become("side")
    assert torch.equal(made.predict(batch()), torch.softmax(side, dim=1))
    assert not torch.equal(made.predict(batch()), torch.softmax(own, dim=1))
    assert "head" not in made.parts()


@torch.no_grad()
def test_a_copy_of_the_learner_fades_alone() -> None:
    backbone = small_backbone()
    made = learner(backbone)
    shake(made)
    twin_backbone, twin = copy.deepcopy((backbone, made))
    twin.become("faded")
    assert made.both_paths(batch())[0].isfinite().all()
    assert torch.equal(twin.predict(batch()), made.predict(batch()))
    assert not any(site.attached for site in twin_backbone.sites.values())


@pytest.mark.parametrize(("mode", "learnt"), [("ln", 38_400), ("final_norm", 1_536), ("head", 0)])
def test_parameters_of_a_vit_base_count_as_specified(
    unallocated: Callable[[str], Backbone], mode: str, learnt: int
) -> None:
    made = strategies.get("mdpd")(backbone_train=mode)
    backbone = unallocated("vit_base_patch16_224")
    made.setup(backbone, petl.get("lst")(), Seeds(0))
    counted = {kind: sum(each.numel() for each in part.parameters()) for kind, part in made.parts().items()}
    assert counted["petl side"] + counted["distillation"] == 2_597_964
    assert counted["petl"] == learnt


def test_the_side_network_is_carried_or_drawn_anew() -> None:
    for choice in ("carry", "anew"):
        made = learner(side_network=choice)
        shake(made)
        before = {name: tensor.clone() for name, tensor in made.side.state_dict().items()}
        made.begin_task(task(1, [3, 4]))
        after = made.side.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items()) == (choice == "carry")
        assert made.side_head.num_classes == made.model.head.num_classes == 5
        assert len(made.backbone.attached) == 2


def test_masks_are_drawn_step_by_step() -> None:
    made = learner()
    first, again = made.loss(batch()), made.loss(batch())
    later = batch()
    later.position = (0, 0, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, made.loss(later))


@pytest.mark.parametrize("module", ["lora", "unipt", "ssf"])
def test_other_modules_are_refused_in_one_line(module: str) -> None:
    with pytest.raises(UserError, match=f"module lst, and takes no {module}") as caught:
        learner(module=module)
    assert "\n" not in str(caught.value)


def test_both_paths_learn_to_tell_colours() -> None:
    stream, backbone, seeds = generated_stream(num_tasks=1), small_backbone(), Seeds(0)
    made = strategies.get("mdpd")(epochs=20, batch_size=12, learning_rate=0.01)
    made.setup(backbone, petl.get("lst")(), seeds)
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, "none", torch.device("cpu"))
    logs: list[dict[str, np.ndarray]] = []
    Loop(
        made,
        stream,
        batcher,
        seeds,
        Meter(torch.device("cpu")),
        log=lambda _, columns: logs.append(columns) or [],
    ).run()
    faded = (logs[-1]["prediction"] == logs[-1]["label"]).mean()
    assert faded > 0.9
