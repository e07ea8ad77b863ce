"""Show that a run trains with the learning rates that its module states, also one that was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clbench.records.progress import Progress
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.runs.checkpoint import load_checkpoint
from clbench.runs.line import execute, resume
from clbench.runs.optimizers import make_optimizer, set_rates
from clbench.strategies import Strategy, get
from clbench.streams import Places

pytestmark = pytest.mark.usefixtures("no_figures")


def spec_of(strategy: str, **module: float) -> RunSpec:
    """Two tasks of two epochs of four steps."""
    return resolve(
        {
            "stream": {"name": "split-digits", "tasks": "2", "train_per_class": 8, "test_per_class": 6},
            "strategy": {"name": strategy, "epochs": 2, "batch_size": 8, "schedule": "cosine"},
            "backbone": {"weights": "none"},
            "petl": module,
            "run": {"checkpoint_every": 2, "eval_batch_size": 16},
        }
    )


def begun(name: str, **options: float) -> Strategy:
    """A strategy with a module, ready to learn its first task."""
    from clbench import backbones, petl
    from clbench.backbones import BackboneOptions
    from clbench.seeds import Seeds

    strategy = get(name)()
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none"))
    strategy.setup(backbone, petl.get("lora-qv")(**options), Seeds(0))
    return strategy


def test_without_a_ratio_a_spec_is_what_it_was() -> None:
    spec = spec_of("naive-lora")
    assert spec.petl.options == {"rank": 5, "num_blocks": 0}
    assert spec_of("naive-lora", b_rate_ratio=1).id == spec.id
    assert spec_of("naive-lora", b_rate_ratio=16).petl.options["b_rate_ratio"] == 16
    assert spec_of("naive-lora", b_rate_ratio=16).id != spec.id


def test_the_optimiser_multiplies_the_rate_and_a_schedule_acts_on_every_group() -> None:
    strategy = begun("naive", b_rate_ratio=16.0)
    optimizer = make_optimizer(strategy, torch.device("cpu"))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [strategy.learning_rate, 16 * strategy.learning_rate]
    assert all("rate_ratio" not in group for group in optimizer.param_groups)
    set_rates(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2 for rate in rates])


def test_a_ratio_of_one_leaves_one_group() -> None:
    (group,) = begun("naive").trainable()
    assert list(group) == ["params"]


def test_slca_slows_both_factors_and_keeps_their_ratio() -> None:
    strategy = begun("slca", b_rate_ratio=16.0)
    strategy.model.head.tasks.append(torch.nn.Linear(128, 2))
    _, first, second = make_optimizer(strategy, torch.device("cpu")).param_groups
    slow = strategy.slowness * strategy.learning_rate
    assert [first["lr"], second["lr"]] == [slow, 16 * slow]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["naive-lora", "lae-lora"])
def test_a_stopped_run_ends_as_an_undisturbed_one(
    strategy: str, tmp_path: Path, interrupted: Callable[[int], Progress]
) -> None:
    spec, places = spec_of(strategy, b_rate_ratio=16), Places(None, tmp_path)
    whole = execute(spec, out=tmp_path / "whole", places=places, progress=Progress(), command="")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, out=tmp_path / "stopped", places=places, progress=interrupted(5), command="")
    (folder,) = (tmp_path / "stopped").iterdir()
    resumed = resume(folder, places=places, progress=Progress())
    states = [load_checkpoint(record.path / "checkpoint") for record in (whole, resumed)]
    plain = execute(spec_of(strategy), out=tmp_path / "plain", places=places, progress=Progress(), command="")
    states.append(load_checkpoint(plain.path / "checkpoint"))
    first, second, other = (state.tensors for state in states if state is not None)
    assert first.keys() == second.keys() == other.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first if "key_up" in key)
