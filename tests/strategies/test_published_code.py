"""Baselines do what their authors' code does where a paper leaves it open: by hand, or by numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from clbench.strategies.slda import oracle_approximating
from sklearn.covariance import OAS
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import petl, strategies
from clbench.data.inputs import sight
from clbench.learning.prompted_classifier import drawn as drawn_prompts
from clbench.learning.stages import open_stage
from clbench.learning.subspaces import Subspaces, synthesised
from clbench.petl.parts.subspace import SubspaceUpdate
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# SLDA: the first task's covariance is shrunk


@pytest.mark.parametrize("num_images", [5, 60])
def test_the_shrinkage_is_sklearns(num_images: int):
    features = drawn(num_images, 8) * torch.linspace(0.1, 2, 8)
    expected = OAS(assume_centered=True).fit(features.double().numpy()).covariance_
    found = oracle_approximating(features.T @ features / num_images, num_images)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_features_without_variance_are_left_alone():
    assert not oracle_approximating(torch.zeros(3, 3), 4).any()


def learnt(first_covariance: str, width: int = 192, num_classes: int = 10, per_class: int = 20) -> float:
    """The accuracy on classes whose directions differ in variance, from about one image a dimension."""
    learner = strategies.get("slda")(first_covariance=first_covariance)
    learner.begin(width)
    scales = torch.logspace(-0.5, 0, width)
    centres = 0.17 * scales * drawn(num_classes, width)
    labels, tested = (torch.arange(num_classes).repeat_interleave(number) for number in (per_class, 50))
    learner.gaussians.grow(num_classes, CPU)
    learner.gaussians.add(centres[labels] + scales * drawn(len(labels), width, seed=1), labels)
    learner.shrink_first(0)
    scores = learner.rule()(centres[tested] + scales * drawn(len(tested), width, seed=9))
    return float((scores.argmax(dim=1) == tested).float().mean())


def test_near_one_image_a_dimension_slda_needs_the_shrinkage_of_the_authors():
    assert learnt("oas") == pytest.approx(0.456, abs=0.03)
    assert learnt("empirical") == pytest.approx(0.175, abs=0.03)


# FeCAM: the setting for ConvNets


def test_fecam_for_convnets_is_the_published_code_in_numpy():
    features = drawn(40, 6).abs() ** 2 + 0.1 * torch.arange(6)
    features[:20] += 0.5
    labels, images = torch.arange(2).repeat_interleave(20), drawn(7, 6, seed=1).abs()
    options = {"power": 0.5, "other_shrinkage": 1.0, "shrinkages": 2, "unit_statistics": False}
    learner = strategies.get("fecam")(**options)
    statistics = learner.begin(6)
    statistics.grow(2, CPU)
    statistics.add(learner.prepared(features), labels)
    distances = -learner.rule()(learner.prepared(images)).numpy()

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    expected = []
    for number in range(2):
        own = features[labels == number].double().numpy()
        covariance = np.cov(np.sqrt(own).T)
        for _ in range(2):
            others = covariance[~np.eye(6, dtype=bool)].mean()
            covariance = covariance + covariance.trace() / 6 * np.eye(6) + others * (1 - np.eye(6))
        deviation = np.sqrt(np.diag(covariance))
        inverse = np.linalg.inv(covariance / np.outer(deviation, deviation))
        away = unit(np.sqrt(images.double().numpy())) - unit(np.sqrt(own.mean(axis=0)))
        expected.append((away @ inverse * away).sum(axis=1))
    np.testing.assert_allclose(distances.T, expected, rtol=1e-4, atol=1e-5)


# EASE: old prototypes complemented, or worked out anew


def three_tasks(*, recomputes: bool) -> tuple[Subspaces, list[Tensor]]:
    subspaces, given = Subspaces(4), []
    for task in range(3):
        subspaces.grow(2, CPU)
        given.append(drawn(task + 1, 2, 4, seed=task))
        subspaces.fill(given[-1], recomputes=recomputes)
    return subspaces, given


def test_old_prototypes_are_complemented_once_or_recomputed_from_all_that_came_since():
    complemented, (first, second, third) = three_tasks(recomputes=False)
    recomputed, _ = three_tasks(recomputes=True)
    old = first[0]  # the first task's classes, in the first subspace
    once = synthesised(old, second[0], second[1])
    torch.testing.assert_close(complemented.prototypes[1, :2], once)
    of_both = synthesised(old, torch.cat([second[0], third[0]]), torch.cat([second[1], third[1]]))
    torch.testing.assert_close(recomputed.prototypes[1, :2], of_both)
    for each in (complemented, recomputed):  # the newest subspace knows the newest classes only
        torch.testing.assert_close(each.prototypes[2, :2], synthesised(old, third[0], third[2]))


@pytest.mark.slow
def test_ease_recomputes_where_it_is_asked_to():
    stream = generated_stream(num_tasks=3, per_class=8)
    learners = {}
    for form in ("complemented", "recomputed"):
        learners[form] = strategies.get("ease")(epochs=1, batch_size=8, old_prototypes=form)
        Trial(learners[form], "adaptformer", stream, small_backbone(), is_exact=False).run()
    one, other = (learner.subspaces.prototypes for learner in learners.values())
    assert not torch.equal(one[1, :2], other[1, :2])
    assert torch.equal(one[:, 4:], other[:, 4:])


# SLCA: the aligned head predicts, and the next task goes on from the one before


def test_slca_goes_on_from_the_head_before_its_alignment():
    stream = generated_stream(num_tasks=3, per_class=8)
    learner = strategies.get("slca")(epochs=1, batch_size=8, drawn_per_class=8, alignment_epochs=1)
    heads: list[dict[str, Tensor]] = []

    class Kept(Trial):
        def epoch_started(self, epoch: int, num_epochs: int, first_step: int, num_steps: int) -> None:
            heads.append({name: value.clone() for name, value in learner.model.head.state_dict().items()})

    Kept(learner, "adaptformer", stream, small_backbone(), is_exact=False).run()
    unaligned, aligned = learner.unaligned.state_dict(), learner.model.head.state_dict()
    for name in ("tasks.0.weight", "tasks.1.weight"):
        assert not torch.equal(aligned[name], unaligned[name])
    assert torch.equal(heads[2]["tasks.0.weight"], heads[1]["tasks.0.weight"])  # as the first task left it
    assert torch.equal(unaligned["tasks.0.weight"], heads[1]["tasks.0.weight"])
    images = sight(drawn(4, 3, 8, 8))
    torch.testing.assert_close(learner.predict(images), learner.model.probabilities(images))


# DualPrompt: keys that few steps turn


def test_keys_find_their_task_after_few_steps_only_if_they_start_small():
    found = {start: tasks_found(start) for start in ("small", "wide")}
    assert found["small"] > found["wide"] + 0.3


def tasks_found(start: str, num_tasks: int = 5, width: int = 128, steps: int = 50) -> float:
    """The share of queries whose task's key is nearest after so many steps at DualPrompt's rate."""
    rate = strategies.get("dualprompt")().learning_rate
    queries = (
        drawn(1, 1, width) * 2 + drawn(num_tasks, 1, width, seed=1) + drawn(num_tasks, 40, width, seed=2)
    )
    keys = []
    for task in range(num_tasks):
        key = nn.Parameter(drawn_prompts(start, torch.Generator().manual_seed(task), width))
        optimizer = torch.optim.Adam([key], rate)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(-F.cosine_similarity(queries[task], key[None]).mean())
            optimizer.step()
        keys.append(F.normalize(key.detach(), dim=0))
    nearest = (F.normalize(queries, dim=2) @ torch.stack(keys).T).argmax(dim=2)
    return float((nearest == torch.arange(num_tasks)[:, None]).float().mean())


# InfLoRA: the criterion, where the code keeps one direction less


def test_inflora_keeps_one_direction_more_than_the_published_code_after_the_first_task():
    update, share = SubspaceUpdate(3, 1), 0.9
    moment = torch.diag(torch.tensor([6.0, 3.0, 1.0]))  # energies 36, 9 and 1 of 46
    update.protect(moment, share)
    energies = torch.tensor([36.0, 9.0, 1.0]) / 46
    published = max(1, int((energies.cumsum(0) < share).sum()))
    assert update.old.trace() == published + 1
    assert energies[:2].sum() >= share > energies[:1].sum()


# ConFiT: the head alone in the first epoch, however few they are


@pytest.mark.parametrize(
    ("num_epochs", "learning"),
    [(2, "hw"), (3, "hww"), (4, "hnww"), (5, "hnwww"), (10, "hhnnnwwwww")],  # head, norms, whole
)
def test_the_head_is_alone_in_the_first_epoch(num_epochs: int, learning: str):
    module = petl.get("full")().attach(small_backbone(), Seeds(0).generator("petl"))
    stages = ""
    for epoch in range(num_epochs):
        open_stage(module, epoch, num_epochs)
        is_learnt = [parameter.requires_grad for parameter in module.parameters()]
        stages += "w" if all(is_learnt) else "n" if any(is_learnt) else "h"
    assert stages == learning


# APER: prompts from zeros


@pytest.mark.parametrize("name", ["vpt-deep", "vpt-shallow"])
def test_prompts_can_start_from_zeros(name: str):
    for first_values in ("zeros", "drawn"):
        module = petl.get(name)(first_values=first_values).attach(
            small_backbone(), torch.Generator().manual_seed(0)
        )
        assert any(parameter.any() for parameter in module.parameters()) == (first_values == "drawn")


def test_slda_shrinks_the_covariance_of_the_first_task():
    stream = generated_stream()

    def learner(form: str) -> Strategy:
        strategy = strategies.get("slda")(first_covariance=form)
        tasks = stream.tasks[:1]
        Trial(strategy, "linear", replace(stream, tasks=tasks), small_backbone(), is_exact=False).run()
        return strategy

    shrunk, empirical = learner("oas").gaussians, learner("empirical").gaussians
    num_images = int(empirical.counts.sum())
    expected = oracle_approximating(empirical.scatters[0] / num_images, num_images)
    torch.testing.assert_close(shrunk.covariances()[0], expected)
    torch.testing.assert_close(shrunk.means, empirical.means)
