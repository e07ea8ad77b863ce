"""EASE's worked examples and invariants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clbench import petl, strategies
from clbench.backbones.backbone import Backbone
from clbench.learning.losses.precision import cosines
from clbench.learning.subspaces import Subspaces, synthesised
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import TaskStream
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

CPU = torch.device("cpu")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def run(stream: TaskStream) -> Strategy:
    learner = strategies.get("ease")(epochs=1, batch_size=8, learning_rate=0.1)
    Trial(learner, "adaptformer", stream, small_backbone(), is_exact=False).run()
    return learner


def test_one_new_class_is_the_whole_mixture():
    there = drawn(1, 4)
    torch.testing.assert_close(synthesised(drawn(3, 4), drawn(1, 4), there), there.expand(3, 4))


def test_two_equal_new_classes_give_their_common_prototype():
    common, there = drawn(1, 4).expand(2, 4), drawn(1, 6).expand(2, 6)
    torch.testing.assert_close(synthesised(drawn(3, 4), common, there), there[:1].expand(3, 6))


def test_a_synthesised_prototype_by_hand():
    old = torch.tensor([[1.0, 0.0]])
    new = torch.tensor([[2.0, 0.0], [0.0, 5.0]])  # cosines 1 and 0
    share = torch.e / (torch.e + 1)
    expected = torch.tensor([[share * 10, (1 - share) * 20]])
    torch.testing.assert_close(synthesised(old, new, torch.tensor([[10.0, 0.0], [0.0, 20.0]])), expected)


def test_a_score_is_the_own_cosine_and_a_share_of_the_others():
    subspaces = Subspaces(2)
    for _ in range(3):  # one class a task
        subspaces.grow(1, CPU)
    subspaces.prototypes.copy_(torch.tensor([[[1.0, 0], [0, 1], [1, 0]]]).expand(3, 3, 2))
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None]  # as each subspace sees it
    # own 1, others (1 + 0) / 2; own 0, others (0 + 1) / 2; own 0, others (1 + 1) / 2
    expected = torch.tensor([[1 + 0.1 * 0.5, 0 + 0.1 * 0.5, 0 + 0.1 * 1.0]])
    torch.testing.assert_close(subspaces.scores(image, other_weight=0.1), expected)


def test_prototypes_of_old_classes_stay_in_old_subspaces():
    subspaces = Subspaces(4)
    subspaces.grow(2, CPU)
    subspaces.fill(drawn(1, 2, 4))
    before = subspaces.prototypes.clone()
    subspaces.grow(3, CPU)
    new = drawn(2, 3, 4)
    subspaces.fill(new)
    assert subspaces.own.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(subspaces.prototypes[0, :2], before[0])
    assert torch.equal(subspaces.prototypes[:, 2:], new)
    assert torch.equal(subspaces.prototypes[1, :2], synthesised(before[0], new[0], new[1]))


def test_a_module_never_changes_after_its_task():
    stream = generated_stream()
    after_one, after_two = run(replace(stream, tasks=stream.tasks[:1])), run(stream)
    states = [learner.parts()["petl 1"].state_dict() for learner in (after_one, after_two)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not any(parameter.requires_grad for parameter in after_two.modules[0].parameters())


def test_after_one_task_a_score_is_the_cosine_to_the_class_mean():
    stream = generated_stream()
    learner = run(replace(stream, tasks=stream.tasks[:1]))
    features = drawn(5, 32)
    scores = learner.subspaces.scores(features[None], learner.other_weight)
    torch.testing.assert_close(scores, cosines(features, learner.subspaces.prototypes[0]))


def test_a_module_of_a_large_vit_has_the_papers_size(unallocated: Callable[[str], Backbone]):
    learner = strategies.get("ease")()
    learner.setup(unallocated("vit_base_patch16_224"), petl.get("adaptformer")(rank=64), Seeds(0))
    for task in generated_stream().tasks:
        learner.begin_task(task)
        learning = sum(p.numel() for group in learner.trainable() for p in group["params"])
        head = sum(parameter.numel() for parameter in learner.parts()["head"].parameters())
        assert learning - head == 1_189_632
    assert [module.num_parameters for module in learner.modules] == [1_189_632, 1_189_632]
    assert head == 2 * 768 + 1


@pytest.mark.parametrize(("name", "options"), [("aper", {}), ("ranpac", {"projection": 8})])
def test_the_first_sessions_module_has_the_same_size(
    unallocated: Callable[[str], Backbone], name: str, options: dict[str, int]
):
    learner = strategies.get(name)(**options)
    learner.setup(unallocated("vit_base_patch16_224"), petl.get("adaptformer")(rank=64), Seeds(0))
    assert learner.parts()["petl"].num_parameters == 1_189_632
