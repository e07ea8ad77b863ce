"""ConFiT's stages, counts and invariants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.data.batches import Batcher
from clbench.data.inputs import sight
from clbench.errors import UserError
from clbench.evaluate.meter import Meter
from clbench.learning.stages import open_stage
from clbench.petl.attached import Attached
from clbench.runs.loop import Loop
from clbench.runs.needs import refuse_impossible
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.testing import check_strategy
from clbench.testing.generated import generated_stream


def small_resnet() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.models.ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(8, 8, 16, 16))
    images = Preprocessing(16, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    return open_model("small", model, images, source="", digest="")


def module_on(name: str) -> Attached:
    backbone = backbones.create(name, BackboneOptions(weights="none"))
    return petl.get("full")().attach(backbone, torch.Generator())


def learner(backbone: Backbone | None = None, module: str = "full", **options: Any) -> Strategy:
    chosen = {"epochs": 5, "batch_size": 12, **options}
    strategy = strategies.get("confit")(**chosen)
    strategy.setup(backbone or small_resnet(), petl.get(module)(), Seeds(0))
    return strategy


def loop_of(strategy: Strategy, num_tasks: int = 2) -> Loop:
    stream, backbone = generated_stream(num_tasks, scenario="task"), strategy.model.backbone
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, "none", torch.device("cpu"))
    return Loop(strategy, stream, batcher, Seeds(0), Meter(torch.device("cpu")))


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def state_of(strategy: Strategy) -> dict[str, Tensor]:
    parts = strategy.parts().items()
    return {
        f"{kind}/{name}": value.clone() for kind, part in parts for name, value in part.state_dict().items()
    }


@pytest.mark.parametrize(("num_epochs", "norms_from", "all_from"), [(10, 2, 5), (20, 4, 10), (50, 10, 25)])
def test_stages_begin_after_a_fifth_and_a_half_of_the_epochs(
    num_epochs: int, norms_from: int, all_from: int
) -> None:
    module = petl.get("full")().attach(small_resnet(), torch.Generator())
    norm = {name for name, _ in module.named_parameters() if "/bn" in name or "/downsample/1/" in name}
    for epoch in range(num_epochs):
        open_stage(module, epoch, num_epochs)
        learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        everything = {name for name, _ in module.named_parameters()}
        assert learning == (set() if epoch < norms_from else norm if epoch < all_from else everything), epoch


def test_resnet18_with_1000_classes_has_the_published_numbers_of_trainable_parameters() -> None:
    module, head = module_on("resnet18"), nn.Linear(512, 1000)
    counts = []
    for epoch in (0, 2, 5):
        open_stage(module, epoch, 10)
        learning = [p for p in (*module.parameters(), *head.parameters()) if p.requires_grad]
        counts.append(sum(parameter.numel() for parameter in learning))
    assert counts == [513_000, 522_600, 11_689_512]


def test_vit_learns_its_layer_norms_in_the_second_stage() -> None:
    module = module_on("vit-micro")
    open_stage(module, 1, 5)
    # scale and shift of two norms in each of four blocks and of the last one, of width 128; five in front
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == (4 * 2 + 1) * 2 * 128 + 2 * (
        32 + 64 + 128 + 128 + 256
    )


def test_running_statistics_and_nothing_else_of_the_backbone_follow_while_the_head_learns_alone() -> None:
    strategy = learner()
    before = state_of(strategy)
    strategy.num_epochs = lambda task_index: 1  # the first stage's, of five
    loop_of(strategy, num_tasks=1).run()
    after = state_of(strategy)
    moved = {
        name for name in before if name.startswith("petl/") and not torch.equal(before[name], after[name])
    }
    assert moved == {
        name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


def test_step_of_a_later_task_gives_the_rows_of_old_tasks_no_gradient() -> None:
    strategy = learner()
    for task in generated_stream(2, scenario="task").tasks:
        strategy.begin_task(task)
    strategy.loss(sight(pictures(4), [2, 3, 2, 3], task=1)).backward()
    old, new = strategy.model.head.tasks
    assert not old.weight.grad.any()
    assert not old.bias.grad.any()
    assert new.weight.grad.any()


def test_loss_is_the_cross_entropy_among_the_classes_of_the_task() -> None:
    strategy = learner()
    for task in generated_stream(2, scenario="task").tasks:
        strategy.begin_task(task)
    old, new = strategy.model.head.tasks
    with torch.no_grad():
        for layer, biases in ((old, [9.0, 9.0]), (new, [0.0, math.log(3)])):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(biases))
    # the two classes of task 1 have probabilities 1/4 and 3/4, whatever the logits of task 0
    assert strategy.loss(sight(pictures(1), [2], task=1)).item() == pytest.approx(math.log(4))
    assert strategy.predict(sight(pictures(1), task=1)).tolist() == [pytest.approx([0, 0, 0.25, 0.75])]


def test_predicting_leaves_weights_and_batch_norms_bit_for_bit_what_they_were() -> None:
    strategy = learner(epochs=2)
    loop_of(strategy, num_tasks=3).run()
    before = state_of(strategy)
    for part in strategy.parts().values():
        part.eval()
    with torch.inference_mode():
        scores = [strategy.predict(sight(pictures(4), task=task)) for task in range(3)]
    after = state_of(strategy)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for task, rows in enumerate(scores):
        torch.testing.assert_close(rows[:, 2 * task : 2 * task + 2].sum(1), torch.ones(4))
        assert rows.count_nonzero(1).tolist() == [2] * 4


def test_old_task_alone_is_predicted_with_other_batch_norms() -> None:
    strategy, plain = learner(epochs=2), learner(epochs=2, cross_convolution=False)
    for each in (strategy, plain):
        loop_of(each).run()
        for part in each.parts().values():
            part.eval()
    old, new = (sight(pictures(4), task=task) for task in range(2))
    with torch.no_grad():
        assert torch.equal(strategy.predict(new), plain.predict(new))
        assert not torch.allclose(strategy.predict(old), plain.predict(old))


def test_each_task_adds_the_published_number_of_floats_to_what_is_stored() -> None:
    strategy = learner(backbones.create("resnet18", BackboneOptions(weights="none", image_size=32)))
    sizes = []
    for task in generated_stream(2, scenario="task").tasks:
        strategy.begin_task(task)
        norms = strategy.parts()["batch norms"]
        sizes.append(sum(tensor.numel() for tensor in norms.state_dict().values()))
    assert sizes == [6_540 + 25_740, 6_540 + 2 * 25_740]  # 19,200 + 6,540 each, and the running ones


@pytest.mark.parametrize(
    ("backbone", "module"),
    [("swin_tiny_patch4_window7_224", "full"), ("vit-micro", "adapter"), ("resnet20", "linear")],
)
def test_without_trained_batch_norms_the_stages_alone_remain(backbone: str, module: str) -> None:
    strategy = learner(backbones.create(backbone, BackboneOptions(weights="none")), module)
    assert set(strategy.parts()) == {"petl", "head"}


def test_without_stages_everything_learns_from_the_first_epoch() -> None:
    strategy = learner(hierarchical=False)
    strategy.begin_task(generated_stream(1, scenario="task").tasks[0])
    strategy.begin_epoch(0)
    assert all(p.requires_grad for part in strategy.parts().values() for p in part.parameters())


@pytest.mark.slow
def test_confit_keeps_the_contract_on_a_convnet() -> None:
    options = {"epochs": 5, "batch_size": 8, "learning_rate": 0.05}
    check_strategy(lambda: strategies.get("confit")(**options), "full", small_resnet)


def test_confit_needs_to_be_told_the_task_of_a_test_image() -> None:
    stream = generated_stream(2)
    with pytest.raises(UserError, match="confit needs to be told the task of a test image"):
        refuse_impossible("confit", strategies.get("confit")(), stream, small_resnet())
