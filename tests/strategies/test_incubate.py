"""Show which module learns a task, what becomes of the old one, and how the experts answer together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone
from clbench.data.inputs import Batch, sight
from clbench.data.tasks import Task, TaskStream
from clbench.errors import UserError
from clbench.evaluate.costs import stored_bytes
from clbench.options import SpecError, build
from clbench.petl.attached import Attached
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

BLOCK = 12 * 32**2 + 9 * 32  # numbers of the linear layers of a block of width 32


def tasks() -> list[Task]:
    """Three tasks of two classes each."""
    return generated_stream(num_tasks=3).tasks


def begun(number: int = 1, backbone: Backbone | None = None, **options: object) -> Strategy:
    """A learner that has begun so many tasks."""
    made = build(strategies.get("incubate"), "strategy", options)
    made.setup(backbone or small_backbone(), petl.get("linear")(), Seeds(0))
    for task in tasks()[:number]:
        made.begin_task(task)
    return made


def learnt(stream: TaskStream, **options: object) -> Strategy:
    made = build(strategies.get("incubate"), "strategy", {"epochs": 2, "batch_size": 8, **options})
    Trial(made, "linear", stream, small_backbone(), is_exact=False).run()
    return made


def batch(labels: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return sight(torch.randn(len(labels), 3, 8, 8, generator=generator), labels)


def modules(made: Strategy) -> dict[str, Attached]:
    return {name: part for name, part in made.parts().items() if isinstance(part, Attached)}


def first_blocks(made: Strategy) -> list[int]:
    return [module.first_block for module in modules(made).values()]


@torch.no_grad()
def shake(made: Strategy) -> None:
    """Change what learns, as training would."""
    generator = torch.Generator().manual_seed(2)
    for group in made.trainable():
        for parameter in group["params"]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def values(made: Strategy, task: int) -> list[Tensor]:
    """What the expert of a task knows."""
    parts = made.parts()
    expert = [*parts[f"module {task + 1}"].parameters(), *parts["head"].tasks[task].parameters()]
    return [each.detach().clone() for each in expert]


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, [2, 2, 2]),
        ({"module": "first"}, [0, 0, 0]),
        ({"module": 2}, [1, 1, 1]),
        ({"module": "next"}, [2, 1, 0]),
        ({"modules": 1}, [0, 0, 0]),
        ({"modules": 2}, [1, 1, 1]),  # of one block and of two
        ({"modules": 2, "module": "next"}, [1, 0, 1]),
    ],
)
def test_the_module_whose_turn_it_is_learns(options: dict[str, object], blocks: list[int]) -> None:
    assert first_blocks(begun(3, **options)) == blocks


def test_with_the_old_ones_replaced_there_is_one_module_a_place() -> None:
    assert first_blocks(begun(3, old="replaced")) == [2]
    assert sorted(first_blocks(begun(3, old="replaced", module="next"))) == [0, 1, 2]


@pytest.mark.parametrize("old", ["replaced", "expert"])
@pytest.mark.parametrize("module", ["first", "2", "last"])
def test_only_the_module_and_the_head_get_gradients_those_in_front_no_graph(module: str, old: str) -> None:
    backbone = small_backbone()
    made = begun(1, backbone, module=module, old=old)
    place = {"first": 0, "2": 1, "last": 2}[module]
    assert backbone.first_changing_block == place  # what enters it is computed once
    entered: list[bool] = []
    backbone.blocks[place][""].register_forward_pre_hook(lambda _, got: entered.append(got[0].requires_grad))
    torch.autograd.backward(made.loss(batch([0, 1, 0, 1])))
    assert entered == [False]
    assert all(each.grad is not None for part in made.parts().values() for each in part.parameters())
    assert all(each.grad is None for each in backbone.parameters())


def test_a_module_begins_as_the_one_that_was_there_and_an_expert_as_what_was_pre_trained() -> None:
    backbone = small_backbone()
    images = batch([0, 1]).images
    plain = backbone(images)
    made = begun(1, backbone)
    shake(made)
    assert not torch.equal(backbone(images), plain)
    made.begin_task(tasks()[1])
    assert torch.equal(backbone(images), plain)
    made = begun(1, backbone := small_backbone(), old="replaced")
    shake(made)
    before = backbone(images)
    made.begin_task(tasks()[1])
    assert torch.equal(backbone(images), before)


@pytest.mark.parametrize("old", ["replaced", "expert"])
def test_anew_it_is_drawn_for_each_task_by_the_seed_alone(old: str) -> None:
    drawn = [list(modules(begun(number, begins="anew", old=old)).values())[-1] for number in (1, 2, 2)]
    first, second, again = (torch.cat([each.flatten() for each in one.parameters()]) for one in drawn)
    assert not torch.equal(first, second)
    assert torch.equal(second, again)


def test_an_experts_share_is_what_discriminant_analysis_of_plain_features_gives_its_task() -> None:
    stream, backbone = generated_stream(), small_backbone()
    seen = torch.cat([batch_of(task).images for task in stream.tasks])
    labels = [label for task in stream.tasks for label in task.train.labels.tolist()]
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=[0.25] * 4)
    reference.fit(backbone(seen).detach().numpy(), labels)
    made = learnt(stream, shrinkage=0.3)
    looked = sight(seen + torch.randn(seen.shape, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        said = made.predict(looked)
    expected = torch.from_numpy(reference.predict_proba(backbone(looked.images).detach().numpy())).float()
    by_task = [each.reshape(-1, 2, 2).sum(dim=2) for each in (said, expected)]
    torch.testing.assert_close(by_task[0], by_task[1], atol=1e-4, rtol=0)  # a solution in single precision


def batch_of(task: Task) -> Batch:
    """The training images of a task, as the small backbone sees them."""
    pixels = torch.from_numpy(task.train.images[task.train.rows]).permute(0, 3, 1, 2)
    return sight((pixels / 255 - 0.5) / 0.5, task.train.labels.tolist(), task.index)


def test_within_a_task_its_expert_alone_decides_also_where_its_share_is_nothing() -> None:
    made = learnt(generated_stream())
    made.gaussians.scatters.mul_(1e-6)  # so sure of the task that other shares are zero in single precision
    made.known = None
    looked = batch([0] * 16)
    with torch.no_grad():
        said = made.predict(looked)
        parts = made.parts()
        parts["module 1"].enabled, parts["module 2"].enabled = True, False
        own = parts["head"].tasks[0](looked.features(made.backbone))
    assert torch.equal(said[:, :2].argmax(dim=1), own.argmax(dim=1))
    assert (said > 0).all()


def test_an_expert_is_never_changed_by_later_tasks() -> None:
    stream = generated_stream(num_tasks=3)
    short = replace(stream, tasks=stream.tasks[:1])
    early, late = values(learnt(short), 0), values(learnt(stream), 0)
    assert all(torch.equal(one, other) for one, other in zip(early, late, strict=True))


def test_the_newest_stays_on_after_a_prediction_and_the_backbone_is_left_alone() -> None:
    backbone = small_backbone()
    before = backbone(batch([0]).images)
    made = begun(2, backbone)
    made.predict(batch([0, 1]))
    assert [module.enabled for module in modules(made).values()] == [False, True]
    for module in modules(made).values():
        module.detach()
    assert torch.equal(backbone(batch([0]).images), before)


def test_each_expert_is_counted_among_the_bytes_and_a_replaced_module_once() -> None:
    for number in (1, 2, 3):
        held = stored_bytes(begun(number).parts())
        assert [held[f"module {task + 1}"] for task in range(number)] == [4 * BLOCK] * number
        replaced = stored_bytes(begun(number, old="replaced").parts())
        assert [size for name, size in replaced.items() if name.startswith("module")] == [4 * BLOCK]


def test_the_modules_rate_is_a_share_of_the_heads() -> None:
    head, slow = begun(1, slowness=0.01).trainable()
    assert (slow["rate_ratio"], "rate_ratio" in head) == (0.01, False)
    assert sum(each.numel() for each in slow["params"]) == BLOCK


@pytest.mark.parametrize("options", [{}, {"old": "replaced"}, {"begins": "anew"}, {"module": "next"}])
def test_classes_may_come_back_in_other_tasks(options: dict[str, object]) -> None:
    first, second, _ = tasks()
    again = replace(second, classes=[1, 2, 3])
    made = begun(1, **options)
    made.begin_task(again)
    assert made.loss(batch([3, 1, 2])).isfinite()
    with torch.no_grad():
        said = made.predict(batch([0, 1, 2]))
    torch.testing.assert_close(said.sum(dim=1), torch.ones(3))
    assert said.shape == (3, 4)
    assert first.classes == [0, 1]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"modules": 4}, "strategy.modules: 4 are more than the 3 blocks of small-vit"),
        ({"module": 4}, "strategy.module: 4 is none of the 3 modules of small-vit; use 1 to 3, first"),
    ],
)
def test_a_module_that_is_not_there_is_refused_in_one_line(options: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line) as told:
        begun(1, **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("module", ["0", "lst", "-1", ""])
def test_what_names_no_module_is_refused_where_it_is_given(module: str) -> None:
    with pytest.raises(SpecError, match=r"strategy\.module: .* is not allowed"):
        begun(1, module=module)


def test_another_module_beside_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"incubate learns a part of the backbone, .* takes no lora$"):
        strategies.get("incubate")().setup(small_backbone(), petl.get("lora")(), Seeds(0))


@pytest.mark.parametrize("old", ["replaced", "expert"])
def test_it_learns_colours(old: str) -> None:
    stream = generated_stream(num_tasks=1, classes_per_task=4)
    made = learnt(stream, epochs=20, learning_rate=0.003, old=old)
    looked = batch_of(stream.tasks[0])
    with torch.no_grad():
        right = made.predict(looked).argmax(dim=1) == looked.labels
    assert right.float().mean() > 0.8  # by chance 0.25
