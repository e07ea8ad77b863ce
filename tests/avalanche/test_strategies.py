"""Show that Avalanche's strategies run in its own loop, that all are accounted for, and what they equal."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench import backbones, petl, strategies, streams
from clbench.avalanche.experiences import as_stored
from clbench.avalanche.quietly import import_avalanche
from clbench.data.batches import Batcher
from clbench.records.resolving import resolve
from clbench.runs.needs import NeedError, refuse_impossible
from clbench.seeds import Seeds
from clbench.strategies import Strategy
from clbench.streams import Places, Task
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

NAMES = [name for name in strategies.names() if name.startswith("avalanche.")]
QUICK = ("naive", "replay", "der", "icarl", "gdumb", "slda", "cope")  # one of each way that the file goes
FULL_BATCH: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 24,
    "drop_last": False,
    "optimizer": "sgd",
    "learning_rate": 0.5,
    "momentum": 0.0,
}  # all training images of a generated task in each step: the order does not matter
SAME_SUMS: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-3}  # in another order, over eight steps


def trial(name: str, num_tasks: int = 2, module: str = "adapter", **options: Any) -> Trial:
    strategy = strategies.get(name)(**{"epochs": 3, "batch_size": 8, "learning_rate": 0.01, **options})
    return Trial(strategy, module, generated_stream(num_tasks), small_backbone(), is_exact=False)


def run(name: str, num_tasks: int = 2, module: str = "adapter", **options: Any) -> Trial:
    made = trial(name, num_tasks, module, **options)
    made.run()
    return made


def learnt(run: Trial) -> dict[str, Tensor]:
    """Return what the module and the head hold, and no counts of classes."""
    return {
        name: tensor for name, tensor in run.state().items() if name.startswith(("petl", "head/classifier"))
    }


def kept(strategy: Strategy) -> list[Tensor]:
    return list(strategy.parts()["kept"].state_dict().values())


def test_every_strategy_of_this_avalanche_is_offered_or_refused_with_a_reason() -> None:
    import_avalanche()
    from avalanche.training import supervised
    from avalanche.training.templates import SupervisedMetaLearningTemplate, SupervisedTemplate

    theirs = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of its files misses the package higher
        for file in pkgutil.iter_modules(supervised.__path__, f"{supervised.__name__}."):
            module = importlib.import_module(file.name)
            classes = [value for value in vars(module).values() if isinstance(value, type)]
            theirs |= {
                value.__name__
                for value in classes
                if issubclass(value, (SupervisedTemplate, SupervisedMetaLearningTemplate))
                and value.__module__ == file.name
            }
    ours = importlib.import_module(strategies.get("avalanche.naive").__module__)
    offered = [vars(strategies.get(name))["method"] for name in NAMES]
    assert len(set(offered)) == len(offered)
    assert not set(offered) & set(ours.REFUSED)
    assert set(offered) | set(ours.REFUSED) == theirs


def test_neither_listing_nor_asking_for_a_strategy_imports_avalanche() -> None:
    code = (
        "import sys, clbench.strategies as s; s.names(); s.get('avalanche.replay');"
        "sys.exit('avalanche' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name.removeprefix("avalanche.") in QUICK else [pytest.mark.slow])
        for name in NAMES
    ],
)
def test_strategy_tells_the_classes_of_its_newest_task_apart(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "linear" if name == "avalanche.slda" else "adapter"
    ended = run(name, module=module, epochs=8)
    last = ended.logs[1]
    newest = last["task"] == 1
    assert (last["masked_prediction"] == last["label"])[newest].mean() > 0.75  # chance is one half
    assert last["prediction"].max() <= 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "options"),
    [("avalanche.naive", {}), ("avalanche.der", {"alpha": 0.0, "beta": 0.0, "memory_size": 30})],
)
def test_naive_and_der_without_its_terms_end_where_our_naive_does(name: str, options: dict[str, Any]) -> None:
    ours, theirs = trial("naive", **FULL_BATCH), trial(name, **FULL_BATCH, **options)
    ours.strategy.model.head.std = 0.0  # type: ignore[attr-defined]
    start_at_zero(theirs.strategy)
    before = [tensor.detach().clone() for tensor in ours.strategy.parts()["petl"].parameters()]
    ours.run()
    theirs.run()
    mine, other = (each.strategy.parts()["petl"].parameters() for each in (ours, theirs))
    changes = []
    for start, one, another in zip(before, mine, other, strict=True):
        changes.append(float((one.detach() - start).abs().max()))
        torch.testing.assert_close(one, another, **SAME_SUMS)
    assert max(changes) > 0.01
    first, _, second, _ = ours.strategy.parts()["head"].parameters()
    (weight, _) = theirs.strategy.parts()["head"].parameters()
    torch.testing.assert_close(torch.cat([first, second]), weight, **SAME_SUMS)


def start_at_zero(strategy: Strategy) -> None:
    """Give a strategy of Avalanche its head for four classes at once, all of whose weights are zero."""
    head = strategy.parts()["head"]
    head.classifier = nn.Linear(32, 4)
    head.active_units = torch.zeros(4, dtype=torch.int8)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()


@pytest.mark.parametrize("name", ["avalanche.joint", "avalanche.cumulative", "avalanche.replay"])
def test_on_a_single_task_it_is_naive(name: str) -> None:
    plain, other = learnt(run("avalanche.naive", num_tasks=1)), learnt(run(name, num_tasks=1))
    assert plain.keys() == other.keys()
    assert all(torch.equal(tensor, other[key]) for key, tensor in plain.items())


def test_synaptic_intelligence_does_something_on_the_cpu() -> None:
    plain = learnt(run("avalanche.naive"))
    without, strong = (learnt(run("avalanche.si", strength=strength)) for strength in (0.0, 1e6))
    assert all(torch.equal(tensor, without[key]) for key, tensor in plain.items())
    assert any(float((tensor - strong[key]).abs().max()) > 1e-3 for key, tensor in plain.items())


def test_stored_logits_have_zero_for_a_class_that_was_not_known() -> None:
    images, labels, logits = kept(run("avalanche.der", memory_size=8).strategy)
    assert images.shape == (8, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert logits.shape == (8, 4)
    assert (logits[labels < 2][:, 2:] == 0).all()
    assert (logits[labels > 1] != 0).all()


def test_gdumb_puts_its_copy_where_the_module_is() -> None:
    ended = run("avalanche.gdumb")
    module = ended.strategy.parts()["petl"]
    assert module in ended.backbone.attached
    theirs = ended.strategy.learner.model.encoder.module.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in module.state_dict().items())


def test_global_generators_are_left_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    run("avalanche.agem", memory_size=5, replay_batch=4)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_warnings_of_others_are_still_issued() -> None:
    import_avalanche()
    from clbench.avalanche.model import on_its_own

    def warn() -> None:
        with on_its_own(Seeds(0), "test"):
            warnings.simplefilter("default")
            warnings.warn("of mine", stacklevel=1)

    with pytest.warns(UserWarning, match="of mine"):
        warn()


def test_a_batch_is_augmented_once_for_all_copies_and_drawn_anew_for_the_next() -> None:
    import_avalanche()
    from clbench.avalanche.model import Encoder

    stream, backbone = generated_stream(), small_backbone()
    images = stream.tasks[0].train.images
    encoder = Encoder(backbone, petl.get("adapter")().attach(backbone, Seeds(0).generator("petl")))
    batcher = Batcher(images, backbone.preprocessing, "rrc", torch.device("cpu"))
    encoder.view.begin(batcher, Seeds(0).generator("augment"))
    stored = batcher.gather(np.arange(4))
    batch, same = stored / 255, stored / 255
    assert torch.equal(as_stored(batch), stored)
    assert torch.equal(encoder.view.of(batch), batcher.plain(stored))
    encoder.view.is_augmenting = True
    twin = copy.deepcopy(encoder)
    first = encoder.view.of(batch)
    assert twin.view.of(batch) is first
    assert not torch.equal(encoder.view.of(same), first)
    assert not torch.equal(encoder.view.of(batch), first)


def test_a_copied_encoder_shares_frozen_weights_only() -> None:
    import_avalanche()
    from clbench.avalanche.model import Encoder

    backbone = small_backbone()
    encoder = Encoder(backbone, petl.get("adapter")().attach(backbone, Seeds(0).generator("petl")))
    twin = copy.deepcopy(encoder)
    pairs = zip(backbone.parameters(), twin.backbone.parameters(), strict=True)
    assert all(one is another for one, another in pairs)
    images = torch.randn(2, 3, 8, 8, generator=Seeds(0).generator("images"))
    before = backbone(images)
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.add_(1.0)
    assert torch.equal(backbone(images), before)
    assert not torch.allclose(twin.backbone(images), before)
    assert {name for name, _ in encoder.named_parameters()} == {
        f"module.{name}" for name, _ in encoder.module.named_parameters()
    }


def test_a_memory_that_cannot_fill_a_batch_is_one_line() -> None:
    reason = (
        r"takes 8 images of a class at once, and has 5 of one \(memory_size 10, 2 classes\); lower strategy.b"
    )
    with pytest.raises(ValueError, match=reason):
        run("avalanche.er-aml", memory_size=10)


def test_a_sample_that_cannot_hold_an_image_of_each_task_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"strategy\.replay_batch 1 is too few for 2 tasks"):
        run("avalanche.agem", replay_batch=1)


def test_features_are_replayed_from_a_memory_smaller_than_a_batch() -> None:
    features, labels = kept(run("avalanche.feature-replay", memory_size=6, replay_batch=24).strategy)
    assert features.shape == (6, 32)
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]


def test_an_online_stream_comes_as_experiences_of_a_batch(tmp_path: Path) -> None:
    spec = resolve({"stream": {"online": 10}, "strategy": {"name": "avalanche.naive"}})
    options = spec.strategy.options
    assert (options["micro_experiences"], options["batch_size"], options["epochs"]) == (True, 10, 1)
    made = trial("avalanche.naive", epochs=1, batch_size=10, micro_experiences=True)
    sizes: list[int] = []
    make = made.strategy.make_learner  # type: ignore[attr-defined]

    def watched(task: Task) -> Any:
        learner = make(task)
        train = learner._train_exp

        def noted(experience: Any, *rest: Any, **more: Any) -> None:
            sizes.append(len(experience.dataset))
            train(experience, *rest, **more)

        learner._train_exp = noted
        return learner

    made.strategy.make_learner = watched  # type: ignore[attr-defined]
    made.run()
    assert sizes == [10, 10, 4, 10, 10, 4]


def test_a_method_of_whole_tasks_refuses_an_online_stream(tmp_path: Path) -> None:
    loader = streams.get("split-digits")(online=10, train_per_class=4, test_per_class=2)
    stream = loader.build("split-digits", Places(None, tmp_path), Seeds(0))
    with pytest.raises(NeedError, match=r"avalanche.ewc needs to see a task's images again"):
        refuse_impossible("avalanche.ewc", strategies.get("avalanche.ewc")(), stream, small_backbone())


@pytest.mark.slow
def test_accuracies_on_the_digits_are_those_of_our_own_naive_and_joint(tmp_path: Path) -> None:
    loader = streams.get("split-digits")(train_per_class=40, test_per_class=30)
    stream = loader.build("split-digits", Places(None, tmp_path), Seeds(0))
    final: dict[str, float] = {}
    for name in ("naive", "avalanche.naive", "joint", "avalanche.joint"):
        strategy = strategies.get(name)(epochs=8)
        backbone = backbones.create("vit-micro")
        made = Trial(strategy, "adapter", stream, backbone, is_exact=False)
        made.run()
        final[name] = float(np.mean(made.logs[4]["prediction"] == made.logs[4]["label"]))
    # three standard errors of the difference between two accuracies near one half, on 300 images each
    margin = 3 * (2 * 0.25 / 300) ** 0.5
    assert abs(final["naive"] - final["avalanche.naive"]) < margin
    assert abs(final["joint"] - final["avalanche.joint"]) < margin
    assert final["avalanche.joint"] > final["avalanche.naive"] + margin
