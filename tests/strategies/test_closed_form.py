"""What is learnt in closed form is exact: no order, split or batch matters, and the formulas hold by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from clbench.strategies.fecam import correlations, factors_of, shrunk, squared_distances
from torch import Tensor
from torch.nn import functional as F

from clbench import petl, strategies
from clbench.data.samples import Samples
from clbench.learning.closed_form import ClosedForm, Rule
from clbench.learning.gaussians import Gaussians
from clbench.learning.heads import CosineHead
from clbench.learning.prototypes import Prototypes
from clbench.learning.ridge import RidgeRegression, errors_of_ridges
from clbench.options import build
from clbench.outside.finite import NotFiniteError
from clbench.records.resolving import resolve
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import TaskStream
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

CPU = torch.device("cpu")
FROZEN: dict[str, Callable[[], Strategy]] = {
    "simplecil": strategies.get("simplecil"),
    "slda": lambda: strategies.get("slda")(first_covariance="empirical"),
    "fecam": strategies.get("fecam"),
    "fecam, one covariance": lambda: strategies.get("fecam")(shared=True),
    "ranpac": lambda: strategies.get("ranpac")(phase1=False, projection=48, ridge=1.0),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(strategy: Strategy, stream: TaskStream, module: str = "linear") -> Trial:
    trial = Trial(strategy, module, stream, small_backbone(), is_exact=False)
    trial.run()
    return trial


def backwards(stream: TaskStream) -> TaskStream:
    """The tasks in the opposite order, their classes numbered anew."""

    def renumbered(part: Samples) -> Samples:
        return Samples(part.images, part.rows, number[part.labels])

    order = [label for task in reversed(stream.tasks) for label in task.classes]
    number = np.argsort(order)
    tasks = []
    for index, task in enumerate(reversed(stream.tasks)):
        classes = sorted(number[task.classes].tolist())
        parts = {kind: renumbered(vars(task)[kind]) for kind in ("train", "validation", "test")}
        tasks.append(replace(task, index=index, classes=classes, new_classes=classes, **parts))
    return replace(stream, tasks=tasks, class_order=order)


def classes_by_row(trial: Trial) -> dict[int, int]:
    """The collection's own number of the class that is predicted in the end, by image."""
    log = trial.logs[len(trial.stream.tasks) - 1]
    named = np.array(trial.stream.class_order)[log["prediction"]]
    return dict(zip(log["row"].tolist(), named.tolist(), strict=True))


# means, covariances and discriminants by hand


def two_classes(*, is_shared: bool) -> Gaussians:
    """Class 0 at (0, 0) and (2, 0), class 1 at (5, 1) alone."""
    gaussians = Gaussians(2, is_shared=is_shared)
    gaussians.grow(2, CPU)
    gaussians.add(torch.tensor([[0.0, 0.0], [5.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))
    return gaussians


def test_means_and_covariances_by_hand():
    own = two_classes(is_shared=False)
    assert own.means.tolist() == [[1, 0], [5, 1]]
    assert own.covariances().tolist() == [[[2, 0], [0, 0]], [[0, 0], [0, 0]]]
    shared = two_classes(is_shared=True)
    torch.testing.assert_close(shared.covariances(), torch.tensor([[[2 / 3, 0], [0, 0]]]))


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_covariances_are_those_of_all_images_whatever_the_batches(size: int, is_shared: bool):
    features, labels = drawn(60, 5) + 3, torch.arange(60) % 3
    gaussians = Gaussians(5, is_shared=is_shared)
    gaussians.grow(3, CPU)
    for part in torch.arange(60).split(size):
        gaussians.add(features[part], labels[part])
    by_class = torch.stack([features[labels == number].T.cov() for number in range(3)]).float()
    expected = by_class.mean(dim=0, keepdim=True) * (19 / 20) if is_shared else by_class
    torch.testing.assert_close(gaussians.covariances(), expected)


def test_discriminants_by_hand():
    gaussians = Gaussians(2, is_shared=True)
    gaussians.grow(2, CPU)
    points = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    gaussians.add(points, torch.tensor([0, 0, 1, 1]))  # means (-1, 0) and (1, 0), covariance diag(1, 0)
    weight, bias = gaussians.discriminants(shrinkage=0.5)  # the precision is diag(1, 2)
    assert weight.T.tolist() == [[-1, 0], [1, 0]]
    assert bias.tolist() == [-0.5, -0.5]
    weight, _ = gaussians.discriminants(shrinkage=0.5, least_variance=0.1)  # half of it: diag(3/4, 1/4)
    torch.testing.assert_close(weight.T, torch.tensor([[-4 / 3, 0], [4 / 3, 0]], dtype=torch.float64))
    weight, _ = gaussians.discriminants(shrinkage=0.5, least_variance=3.0)  # diag(2, 3/2)
    torch.testing.assert_close(weight.T, torch.tensor([[-0.5, 0], [0.5, 0]], dtype=torch.float64))


def test_shrinkage_and_correlation_by_hand():
    covariance = torch.tensor([[[2.0, 1.0], [1.0, 4.0]]])  # mean variance 3, mean covariance 1
    assert shrunk(covariance, 1.0, 0.0).tolist() == [[[5, 1], [1, 7]]]
    assert shrunk(covariance, 1.0, 1.0).tolist() == [[[5, 2], [2, 7]]]
    scaled = 1 / 8**0.5
    torch.testing.assert_close(correlations(covariance), torch.tensor([[[1, scaled], [scaled, 1]]]))


def test_mahalanobis_distance_is_the_formula():
    features, means, roots = drawn(4, 3), drawn(2, 3, seed=1), drawn(2, 3, 3, seed=2)
    covariance = roots @ roots.mT + torch.eye(3)
    distances = squared_distances(features, means, torch.linalg.cholesky(covariance))
    for image in range(4):
        for label in range(2):
            away = features[image] - means[label]
            assert distances[image, label].item() == pytest.approx(
                (away @ covariance[label].inverse() @ away).item()
            )


def test_fecam_with_identity_covariance_is_the_nearest_class_mean():
    features, means = drawn(50, 6).float(), drawn(4, 6, seed=1).float()
    factors = factors_of(torch.eye(6).expand(4, 6, 6))
    nearest = torch.cdist(features, means).argmin(dim=1)
    assert torch.equal(squared_distances(features, means, factors).argmin(dim=1), nearest)


def test_fecam_gives_classes_of_one_image_the_others_covariance():
    single, plenty = torch.zeros(2, 2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert correlations(torch.stack([single, plenty])).tolist() == [plenty.tolist(), plenty.tolist()]
    assert correlations(single[None]).tolist() == [torch.eye(2).tolist()]


@pytest.mark.parametrize("name", FROZEN)
def test_one_training_image_a_class_is_enough(name: str):
    stream = generated_stream()
    tasks = [
        replace(task, train=task.train.select(np.unique(task.train.labels, return_index=True)[1]))
        for task in stream.tasks
    ]
    trial = run(FROZEN[name](), replace(stream, tasks=tasks))
    assert list(trial.logs) == [0, 1]  # scores that are not finite would have ended the run


class Counted(ClosedForm):
    """Class means that count how often the rule is worked out of them."""

    part = "means"
    num_rules = 0

    def begin(self, width: int) -> Prototypes:
        return Prototypes(width)

    def rule(self) -> Rule:
        self.num_rules += 1
        return self.statistics.cosines


def test_a_rule_is_worked_out_once_for_each_state_of_the_statistics():
    stream = generated_stream(num_tasks=3)
    trial = run(Counted(), stream)
    assert trial.strategy.num_rules == len(stream.tasks)
    assert list(trial.strategy.parts()) == ["petl", "means"]
    counts = trial.strategy.statistics.counts.tolist()
    assert counts == np.bincount(np.concatenate([task.train.labels for task in stream.tasks])).tolist()


def test_fecam_refuses_what_makes_a_covariance_indefinite():
    with pytest.raises(ValueError, match="at most diagonal_shrinkage"):
        build(strategies.get("fecam"), "strategy", {"other_shrinkage": 2.0})


# ridge regression


def test_ridge_regression_from_sums_is_that_on_all_samples():
    inputs, targets = drawn(40, 6).float(), drawn(40, 3, seed=1).float()
    regression = RidgeRegression(6)
    regression.grow(3, CPU)
    for part in torch.arange(40).split(7):
        regression.add(inputs[part], targets[part])
    regression.solve(0.5)
    expected = torch.linalg.solve(inputs.T @ inputs + 0.5 * torch.eye(6), inputs.T @ targets)
    torch.testing.assert_close(regression.weight, expected)


def test_an_output_that_comes_later_was_zero_before():
    inputs = drawn(10, 3).float()
    late, early = RidgeRegression(3), RidgeRegression(3)
    early.grow(2, CPU)
    early.add(inputs, F.pad(torch.ones(10, 1), (0, 1)))
    late.grow(1, CPU)
    late.add(inputs, torch.ones(10, 1))
    late.grow(1, CPU)
    assert torch.equal(late.cross, early.cross)


def test_a_ridge_that_rounding_swallows_grows():
    regression = RidgeRegression(3)
    regression.grow(1, CPU)
    regression.add(1e4 * torch.ones(1, 3), torch.ones(1, 1))  # of rank one
    regression.solve(1e-8)
    prediction = 1e4 * torch.ones(1, 3) @ regression.weight
    torch.testing.assert_close(prediction, torch.ones(1, 1), rtol=0.01, atol=0)


def test_inputs_that_are_no_numbers_end_the_regression():
    regression = RidgeRegression(2)
    regression.grow(1, CPU)
    regression.add(torch.full((1, 2), torch.nan), torch.ones(1, 1))
    message = r"^the sums of the regression: G holds nan or inf in 4 of 4 places, the first nan at \[0, 0\]$"
    with pytest.raises(NotFiniteError, match=message):
        regression.solve(1.0)


@pytest.mark.parametrize("num_samples", [20, 200])  # fewer and more than inputs
def test_one_decomposition_serves_every_ridge(num_samples: int):
    inputs, targets = drawn(num_samples, 50), drawn(num_samples, 3, seed=1)
    held, held_targets = drawn(30, 50, seed=2), drawn(30, 3, seed=3)
    ridges = [1e-3, 1.0, 1e3]
    errors = errors_of_ridges(inputs, targets, held, held_targets, ridges)
    for ridge, error in zip(ridges, errors, strict=True):
        solved = torch.linalg.solve(inputs.T @ inputs + ridge * torch.eye(50), inputs.T @ targets)
        torch.testing.assert_close(error, F.mse_loss(held @ solved, held_targets))


def test_ranpac_with_a_fixed_ridge_is_joint_ridge_regression():
    stream = generated_stream(num_tasks=4, classes_per_task=1)
    trial = run(FROZEN["ranpac"](), stream)
    learner, batcher = trial.strategy, trial.loop.batcher
    rows = np.concatenate([task.train.rows for task in stream.tasks])
    labels = torch.from_numpy(np.concatenate([task.train.labels for task in stream.tasks]))
    with torch.no_grad():
        hidden = F.relu(trial.backbone(batcher.test_batch(rows)) @ learner.columns).double()
    targets = F.one_hot(labels).double()
    joint = torch.linalg.solve(hidden.T @ hidden + torch.eye(48), hidden.T @ targets)
    torch.testing.assert_close(learner.regression.weight.double(), joint, rtol=1e-4, atol=1e-4)


def test_ranpac_draws_its_projection_again_and_stores_none():
    first, second = FROZEN["ranpac"](), FROZEN["ranpac"]()
    for learner in (first, second):
        run(learner, generated_stream())
    assert first.columns.shape == (32, 48)
    assert torch.equal(first.columns, second.columns)
    shapes = [tensor.shape for part in first.parts().values() for tensor in part.state_dict().values()]
    assert (32, 48) not in shapes


@pytest.mark.parametrize("options", [{"logits": "cosine"}, {"projection": 0}, {"ridge": 0.0}])
def test_ranpac_learns_in_its_other_forms(options: dict[str, object]):
    chosen = {"phase1": False, "projection": 48, "ridge": 1.0, **options}
    log = run(strategies.get("ranpac")(**chosen), generated_stream()).logs[1]
    assert (log["prediction"] == log["label"]).mean() > 0.5  # of four classes


# order, split and cache


@pytest.mark.parametrize("name", FROZEN)
def test_neither_the_order_nor_the_split_of_the_tasks_matters(name: str):
    stream = generated_stream(num_tasks=4, classes_per_task=1)
    reference = classes_by_row(run(FROZEN[name](), stream))
    assert len(reference) == sum(len(task.test) for task in stream.tasks)
    for other in (backwards(stream), generated_stream(1, 4)):
        assert classes_by_row(run(FROZEN[name](), other)) == reference


@pytest.mark.parametrize("name", FROZEN)
def test_a_second_run_on_cached_features_computes_none_and_predicts_the_same(name: str):
    first = run(FROZEN[name](), generated_stream())
    second = Trial(FROZEN[name](), "linear", generated_stream(), small_backbone(), is_exact=False)
    cache = first.loop.cache
    assert cache is not None

    def refuse(key: str, num_images: int, compute: Callable[[], Tensor]) -> Tensor:
        raise AssertionError(f"{num_images} images are computed again")

    cache.account = refuse
    second.loop.cache = second.loop.evaluator.cache = cache
    second.run()
    first.check_equal(second, "a run on cached features")


# adaptation to the first task


def quick(name: str, **options: object) -> Strategy:
    return strategies.get(name)(epochs=2, batch_size=8, learning_rate=0.1, **options)


@pytest.mark.parametrize(("name", "options"), [("aper", {}), ("ranpac", {"projection": 48})])
def test_the_module_learns_on_the_first_task_and_then_stays(name: str, options: dict[str, object]):
    stream = generated_stream()
    untrained = strategies.get(name)()
    untrained.setup(small_backbone(), petl.get("adaptformer")(), Seeds(0))
    after_one = run(quick(name, **options), replace(stream, tasks=stream.tasks[:1]), "adaptformer").strategy
    after_two = run(quick(name, **options), stream, "adaptformer").strategy
    states = [learner.parts()["petl"].state_dict() for learner in (untrained, after_one, after_two)]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(torch.equal(states[1][key], states[2][key]) for key in states[1])
    assert "head" in after_one.parts()
    assert "head" not in after_two.parts()


def test_aper_with_an_empty_module_is_simplecil():
    stream = generated_stream()
    aper, simplecil = run(quick("aper"), stream), run(strategies.get("simplecil")(), stream)
    aper.check_predictions(simplecil, "SimpleCIL")
    plain, adapted = aper.strategy.prototypes.means.chunk(2, dim=1)
    assert torch.equal(plain, adapted)


@pytest.mark.parametrize(
    ("name", "module", "options"),
    [
        ("aper", "adaptformer", {"rank": 64}),
        ("aper-adaptformer", "adaptformer", {"rank": 64}),
        ("aper-ssf", "ssf", {}),
        ("aper-vpt-deep", "vpt-deep", {"length": 5}),
        ("aper-vpt-shallow", "vpt-shallow", {"length": 5}),
        ("aper-full", "full", {}),
        ("ranpac", "adaptformer", {"rank": 64}),
        ("ease", "adaptformer", {"rank": 64}),
        ("slca", "full", {}),
    ],
)
def test_the_papers_modules_resolve(name: str, module: str, options: dict[str, object]):
    spec = resolve({"strategy": {"name": name}})
    assert spec.petl.name == module
    assert options.items() <= spec.petl.options.items()


def test_a_module_option_that_is_set_wins_over_the_papers():
    assert resolve({"strategy": {"name": "aper"}, "petl": {"rank": 4}}).petl.options["rank"] == 4


def test_a_cosine_head_ignores_lengths():
    head = CosineHead(3, 2, torch.Generator().manual_seed(0), scale=4.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0]]))
        logits = head(torch.tensor([[0.0, 0.0, 5.0]]))
    torch.testing.assert_close(logits, torch.tensor([[0.0, 3.2]]))


# a slow learner, and the alignment of its classifier


def test_slca_trains_the_newest_head_and_slowly_the_module():
    learner = run(
        quick("slca", drawn_per_class=8, alignment_epochs=0), generated_stream(), "adaptformer"
    ).strategy
    fast, slow = learner.trainable()
    assert [id(p) for p in fast["params"]] == [id(p) for p in learner.model.head.tasks[-1].parameters()]
    assert "lr" not in fast
    assert slow["lr"] == pytest.approx(0.01 * learner.learning_rate)


def test_slca_aligns_the_heads_of_old_tasks_too():
    stream = generated_stream()
    runs = {
        epochs: run(quick("slca", drawn_per_class=8, alignment_epochs=epochs), stream, "adaptformer")
        for epochs in (0, 1)
    }
    first = run(quick("slca", drawn_per_class=8), replace(stream, tasks=stream.tasks[:1]), "adaptformer")
    old = {epochs: trial.strategy.model.head.tasks[0].weight for epochs, trial in runs.items()}
    assert torch.equal(old[0], first.strategy.model.head.tasks[0].weight)
    assert not torch.equal(old[1], old[0])


def test_slca_normalises_logits_task_by_task():
    learner = run(quick("slca", drawn_per_class=8), generated_stream(), "adaptformer").strategy
    with torch.no_grad():
        for head, bias in zip(learner.model.head.tasks, ([3.0, 4.0], [0.0, 12.0]), strict=True):
            head.weight.zero_()
            head.bias.copy_(torch.tensor(bias))  # lengths 5 and 12, 8.5 in the mean
        loss = learner._alignment_loss(torch.zeros(1, 32), torch.tensor([1]))
    expected = F.cross_entropy(torch.tensor([[3.0, 4.0, 0.0, 12.0]]) / 0.85, torch.tensor([1]))
    torch.testing.assert_close(loss, expected)


def test_slca_draws_each_class_from_its_gaussian():
    learner = strategies.get("slca")(drawn_per_class=4000)
    learner.setup(small_backbone(), petl.get("linear")(), Seeds(0))
    learner.gaussians.grow(2, CPU)
    features = (drawn(400, 32) * torch.linspace(0.1, 2, 32)).repeat(2, 1)
    features[400:] += 7
    learner.gaussians.add(features, torch.arange(2).repeat_interleave(400))
    sample, labels = learner._drawn(learner._factors(), torch.Generator().manual_seed(0))
    assert labels.bincount().tolist() == [4000, 4000]
    for number in range(2):
        own = sample[labels == number]
        torch.testing.assert_close(
            own.mean(dim=0), learner.gaussians.means[number].float(), rtol=0, atol=0.15
        )
        torch.testing.assert_close(
            own.std(dim=0), features[labels[::10] == number].std(dim=0).float(), rtol=0.1, atol=0.01
        )
