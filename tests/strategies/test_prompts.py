"""Show that L2P, DualPrompt and CODA-Prompt choose, learn and keep prompts as their papers say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone, Preprocessing
from clbench.backbones.creation import open_model
from clbench.backbones.sites import NoSuchSiteError
from clbench.data.inputs import Batch, sight
from clbench.data.samples import Samples
from clbench.errors import UserError
from clbench.learning.losses.local_cross_entropy import local_cross_entropy
from clbench.petl.parts.prompted import GivenPrefixes
from clbench.runs.optimizers import make_optimizer
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import Task
from clbench.testing import check_strategy

EMPTY = Samples(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
WIDTH = 128  # of vit-micro
PROMPTED = ["l2p", "dualprompt", "coda-prompt"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit_micro() -> Backbone:
    return backbones.create("vit-micro", BackboneOptions(weights="none"))


def images(number: int = 4, seed: int = 7) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=generator(seed))


def task(index: int) -> Task:
    classes = [2 * index, 2 * index + 1]
    return Task(index, classes, classes, EMPTY, EMPTY, EMPTY)


def learner(
    name: str, backbone: Backbone, *, tasks: int, module: str = "linear", **options: object
) -> Strategy:
    """A strategy that has begun so many tasks of two classes."""
    strategy = strategies.get(name)(faithful_query=True, **options)
    strategy.setup(backbone, petl.get(module)(), Seeds(0))
    for index in range(tasks):
        strategy.begin_task(task(index))
    return strategy


def batch_of(index: int) -> Batch:
    return sight(images(), [2 * index, 2 * index + 1] * 2, task=index)


def learn(strategy: Strategy, index: int, steps: int = 2) -> None:
    """Take a few steps on a task, with an optimiser that also moves what has no gradient."""
    optimizer = make_optimizer(strategy, torch.device("cpu"))
    for _ in range(steps):
        batch = batch_of(index)
        optimizer.zero_grad()
        torch.autograd.backward(strategy.loss(batch))
        strategy.before_update(batch)
        optimizer.step()


def values(parts: dict[str, torch.nn.Module], *kinds: str) -> list[Tensor]:
    return [tensor.clone() for kind in kinds for tensor in parts[kind].state_dict().values()]


def num_parameters(strategy: Strategy) -> int:
    prompts = [part for kind, part in strategy.parts().items() if kind not in ("head", "petl")]
    return sum(parameter.numel() for part in prompts for parameter in part.parameters())


@pytest.mark.parametrize(
    ("name", "tasks", "options", "parameters"),
    [
        ("l2p", 10, {"prompt_length": 5, "top_k": 5}, 46_080),
        ("dualprompt", 10, {}, 253_440),
        ("coda-prompt", 1, {}, 384_000),
    ],
)
def test_prompts_have_the_parameters_of_the_paper_on_vit_b(
    unallocated: Callable[[str], Backbone], name: str, tasks: int, options: dict[str, int], parameters: int
) -> None:
    strategy = learner(name, unallocated("vit_base_patch16_224"), tasks=tasks, **options)
    assert num_parameters(strategy) == parameters


def test_coda_has_3_840_000_parameters_after_ten_tasks_on_vit_b(
    unallocated: Callable[[str], Backbone],
) -> None:
    all_at_once = learner(
        "coda-prompt", unallocated("vit_base_patch16_224"), tasks=1, components_per_task=100
    )
    assert num_parameters(all_at_once) == 3_840_000


@pytest.mark.parametrize("name", PROMPTED)
def test_between_two_batches_the_backbone_has_no_prompts(name: str) -> None:
    backbone = vit_micro()
    before = backbone(images())
    strategy = learner(name, backbone, tasks=1)
    strategy.loss(batch_of(0))
    strategy.predict(sight(images()))
    assert torch.equal(backbone(images()), before)


@pytest.mark.parametrize("name", PROMPTED)
def test_a_query_does_not_feel_the_module_beside_the_prompts(name: str) -> None:
    backbone = vit_micro()
    before = backbone(images())
    strategy = learner(name, backbone, tasks=1, module="ssf")
    with torch.no_grad():
        for parameter in strategy.model.classifier.module.parameters():
            parameter.add_(0.5)
    assert not torch.equal(backbone(images()), before)
    assert torch.equal(strategy.model.query(sight(images())), before)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # many prompts, and keys that stay where they were drawn: random features differ little
        ("l2p", {"pool_size": 20, "prompt_length": 1, "key_weight": 0.0}),
        ("dualprompt", {"start": "wide"}),  # near keys are found by all images alike
    ],
)
def test_selection_by_batch_fails_the_contract_as_it_leaks(name: str, options: dict[str, object]) -> None:
    quick = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "selection": "batch"}
    with pytest.raises(AssertionError, match="gets other scores"):
        check_strategy(lambda: strategies.get(name)(**quick, **options), "linear")


@pytest.mark.parametrize("name", PROMPTED)
def test_windows_of_a_swin_cannot_be_prompted(unallocated: Callable[[str], Backbone], name: str) -> None:
    with pytest.raises(NoSuchSiteError, match="sequence of tokens"):
        learner(name, unallocated("swin_tiny_patch4_window7_224"), tasks=0)


def test_local_cross_entropy_compares_the_classes_of_the_task_only() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0]])
    assert local_cross_entropy(logits, torch.tensor([2]), [1, 2]).item() == pytest.approx(
        math.log(1 + math.exp(-1))
    )


def test_l2p_takes_the_prompts_of_the_nearest_keys() -> None:
    strategy = learner("l2p", vit_micro(), tasks=1, pool_size=3, top_k=2, prompt_length=1)
    with torch.no_grad():
        strategy.keys[0].copy_(torch.eye(3, WIDTH))
    query = torch.zeros(2, WIDTH)
    query[0, :3], query[1, :3] = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.5, 0.2, -1.0])
    cosines = strategy.cosines(query)
    torch.testing.assert_close(cosines[0], torch.tensor([0.6, 0.0, 0.8]))
    assert strategy.select(cosines).tolist() == [[2, 0], [0, 1]]


def test_l2p_by_batch_takes_what_most_images_ask_for() -> None:
    strategy = learner("l2p", vit_micro(), tasks=1, pool_size=3, top_k=1, selection="batch")
    cosines = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.1], [0.2, 0.7, 0.1]])
    assert strategy.select(cosines).tolist() == [[1], [1], [1]]


def test_l2p_with_as_many_prompts_taken_as_there_are_does_not_select() -> None:
    strategy = learner("l2p", vit_micro(), tasks=1, pool_size=4, top_k=4)
    scores = strategy.predict(sight(images()))
    with torch.no_grad():
        strategy.keys[0].normal_(generator=generator(3))
    # attention does not mind the order of the prompts, but the sums of float32 do
    torch.testing.assert_close(strategy.predict(sight(images())), scores, rtol=1e-4, atol=1e-6)


def test_l2p_loss_pulls_the_keys_taken_by_the_sum_of_their_cosines() -> None:
    strategy = learner("l2p", vit_micro(), tasks=1)
    batch = batch_of(0)
    cosines = strategy.cosines(strategy.model.query(batch))
    pull = cosines.topk(4, dim=1).values.sum(dim=1).mean()
    with_pull = strategy.loss(batch)
    strategy.key_weight = 0.0
    torch.testing.assert_close(strategy.loss(batch) - with_pull, pull)  # key weight 1


def test_l2p_feature_is_the_mean_of_what_becomes_of_the_prompts() -> None:
    backbone = vit_micro()
    strategy = learner("l2p", backbone, tasks=1, pool_size=2, top_k=2, prompt_length=3)
    model = backbone.model
    tokens = model._pos_embed(model.patch_embed(images()))
    taken = strategy.select(strategy.cosines(strategy.model.query(sight(images()))))
    prompts = strategy.prompts_of(taken)
    assert prompts.shape == (4, 6, WIDTH)
    tokens = torch.cat((tokens[:, :1], prompts, tokens[:, 1:]), dim=1)
    mean = model.norm(model.blocks(tokens))[:, 1:7].mean(dim=1)
    head = strategy.parts()["head"]
    torch.testing.assert_close(strategy.model.logits(sight(images()), [prompts]), head(mean))


def test_l2p_on_a_backbone_that_pools_before_its_norm_averages_the_prompts_before_it() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.models.VisionTransformer(
            32, 16, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="avg"
        )
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    backbone = open_model("small", model, preprocessing, source="", digest="")
    strategy = learner("l2p", backbone, tasks=1, pool_size=2, top_k=1, prompt_length=2)
    prompts = torch.randn(4, 2, 32, generator=generator())
    tokens = model._pos_embed(model.patch_embed(images()))
    tokens = model.blocks(torch.cat((tokens[:, :1], prompts, tokens[:, 1:]), dim=1))
    mean = model.fc_norm(tokens[:, 1:3].mean(dim=1))
    logits = strategy.model.logits(sight(images()), [prompts])
    torch.testing.assert_close(logits, strategy.parts()["head"](mean))


def test_l2p_refuses_to_take_more_prompts_than_there_are() -> None:
    with pytest.raises(UserError, match=r"top_k: 4, but strategy.pool_size is 3"):
        learner("l2p", vit_micro(), tasks=0, pool_size=3)


def test_l2p_needs_no_boundaries() -> None:
    assert strategies.get("l2p").needs == ("tokens",)
    assert "boundaries" in strategies.get("dualprompt").needs
    assert "boundaries" in strategies.get("coda-prompt").needs


def test_given_prefixes_are_plain_prefix_tuning_with_rows_for_each_image() -> None:
    backbone = vit_micro()
    known = petl.get("prefix")(length=3, num_blocks=2, compensated=False).attach(backbone, generator())
    with torch.no_grad():
        for parameter in known.parameters():
            parameter.normal_(generator=generator(2))
    rows = [branch.rows for branch in known.branches]  # keys and values of two blocks
    expected = backbone(images())
    known.enabled = False
    recipe = GivenPrefixes(2)
    places = recipe.attach(backbone, generator())
    places.enabled = False
    same = [torch.stack(rows[:2]).expand(4, -1, -1, -1), torch.stack(rows[2:]).expand(4, -1, -1, -1)]
    with recipe.given.shown(places, same):
        torch.testing.assert_close(backbone(images()), expected)
    other = [torch.cat((each[:3], -each[3:])) for each in same]
    with recipe.given.shown(places, other):
        features = backbone(images())
    torch.testing.assert_close(features[:3], expected[:3])
    assert (features[3] - expected[3]).abs().max() > 0.01


def test_dualprompt_finds_the_task_whose_key_equals_the_query() -> None:
    strategy = learner("dualprompt", vit_micro(), tasks=3)
    query = strategy.model.query(sight(images()))
    with torch.no_grad():
        strategy.keys[1].copy_(query[2])
        strategy.keys[2].copy_(query[0])
    found = strategy.select(query)
    assert found[2] == 1
    assert found[0] == 2
    prompts = strategy.prompts_of(found)
    assert len(prompts) == 2  # blocks of vit-micro: 1 with the general prompt, 1 with expert prompts
    assert torch.equal(prompts[0][0], prompts[0][2])
    assert torch.equal(prompts[1][2], strategy.experts[1][0])
    assert torch.equal(prompts[1][0], strategy.experts[2][0])


def test_dualprompt_starts_a_task_from_the_prompt_of_the_last_and_leaves_that_alone() -> None:
    strategy = learner("dualprompt", vit_micro(), tasks=1, optimizer="adamw", weight_decay=0.1)
    learn(strategy, 0)
    before = values(strategy.parts(), "expert prompts", "keys")
    strategy.begin_task(task(1))
    assert torch.equal(strategy.experts[1], strategy.experts[0])
    learn(strategy, 1)
    assert not torch.equal(strategy.experts[1], before[0])
    assert torch.equal(strategy.experts[0], before[0])
    assert torch.equal(strategy.keys[0], before[1])


def test_dualprompt_trains_with_the_prompt_of_the_task_whatever_key_is_nearest() -> None:
    strategy = learner("dualprompt", vit_micro(), tasks=2)
    with torch.no_grad():
        strategy.keys[0].copy_(strategy.model.query(batch_of(1))[0])
    torch.autograd.backward(strategy.loss(batch_of(1)))
    assert strategy.experts[1].grad.abs().sum() > 0
    assert strategy.experts[0].grad is None


def test_coda_leaves_earlier_components_bit_for_bit_alone() -> None:
    kinds = ("attention", "keys", "prompts")
    strategy = learner(
        "coda-prompt", vit_micro(), tasks=1, optimizer="adamw", weight_decay=0.1, components_per_task=3
    )
    learn(strategy, 0)
    before = values(strategy.parts(), *kinds)
    strategy.begin_task(task(1))
    at_start = values(strategy.parts(), *kinds)[1::2]
    learn(strategy, 1)
    after = values(strategy.parts(), *kinds)
    assert all(torch.equal(old, kept) for old, kept in zip(before, after[::2], strict=True))
    assert not any(torch.equal(new, moved) for new, moved in zip(at_start, after[1::2], strict=True))


def test_coda_starts_components_orthonormal_and_orthogonal_to_trained_ones() -> None:
    strategy = learner("coda-prompt", vit_micro(), tasks=1, learning_rate=0.1, components_per_task=4)
    learn(strategy, 0)
    strategy.begin_task(task(1))
    for old, new in (strategy.attention, strategy.keys, strategy.prompts):
        identity = torch.eye(4).expand(len(new), 4, 4)
        torch.testing.assert_close(new @ new.mT, identity, rtol=0, atol=1e-5)
        torch.testing.assert_close(new @ old.mT, torch.zeros_like(identity), rtol=0, atol=1e-5)


def test_coda_starts_components_orthonormal_where_the_width_has_no_room_beside_earlier_ones() -> None:
    strategy = learner("coda-prompt", vit_micro(), tasks=2, components_per_task=100)
    new = strategy.keys[1]
    torch.testing.assert_close(new @ new.mT, torch.eye(100).expand(len(new), 100, 100), rtol=0, atol=1e-5)


def test_coda_weighs_components_by_the_cosine_of_the_attended_query_and_the_key() -> None:
    strategy = learner("coda-prompt", vit_micro(), tasks=2, components_per_task=3, rows=2)
    query = torch.randn(5, WIDTH, generator=generator())
    attention, keys, components = strategy.all_components()
    prompts = strategy.prompts_of(query)
    assert len(prompts) == 2  # 5/12 of four blocks, rounded up
    for block, prompt in enumerate(prompts):
        weights = F.cosine_similarity(query[:, None] * attention[block], keys[block][None], dim=-1)
        expected = (weights @ components[block]).reshape(5, 2, 2, WIDTH)
        torch.testing.assert_close(prompt, expected)


def test_coda_penalty_is_zero_for_orthonormal_components_and_counts_an_overlap() -> None:
    strategy = learner("coda-prompt", vit_micro(), tasks=1, components_per_task=2)
    plain = strategy.loss(batch_of(0))
    strategy.orthogonality = 1.0
    torch.testing.assert_close(strategy.loss(batch_of(0)), plain, rtol=0, atol=1e-6)
    with torch.no_grad():
        strategy.keys[0][:, 1] = strategy.keys[0][:, 0]  # X X^T = 1 everywhere: mean 1/2 in each of 2 blocks
    strategy.orthogonality = 0.0
    plain = strategy.loss(batch_of(0))
    strategy.orthogonality = 1.0
    torch.testing.assert_close(strategy.loss(batch_of(0)) - plain, torch.tensor(1.0))


@pytest.mark.parametrize(
    ("name", "taken"),
    [("l2p", torch.arange(320).reshape(64, 5) % 10), ("dualprompt", torch.zeros(64, dtype=torch.int64))],
)
def test_gradients_of_prompts_that_many_images_take_are_added_in_one_order(name: str, taken: Tensor) -> None:
    strategy, threads = learner(name, vit_micro(), tasks=1), torch.get_num_threads()

    def gradients() -> list[Tensor]:
        given = strategy.prompts_of(taken)
        given = given if isinstance(given, list) else [given]
        total = sum((each * torch.linspace(0, 1, each.numel()).view_as(each).sin()).sum() for each in given)
        learnt = [p for part in strategy.parts().values() for p in part.parameters() if p.requires_grad]
        return [g for g in torch.autograd.grad(total, learnt, allow_unused=True) if g is not None]

    torch.set_num_threads(2)
    try:
        first, *others = [gradients() for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert first
    assert all(torch.equal(one, same) for other in others for one, same in zip(first, other, strict=True))
