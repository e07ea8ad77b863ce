"""What a run spends is counted, and counted once."""

from __future__ import annotations

import time

import pytest
import torch

from clbench.evaluate.meter import Meter


def test_the_sums_go_through_a_checkpoint():
    meter = Meter(torch.device("cpu"))
    with meter.phase("train", images=3):
        meter.flops["train"] += 10.0
    other = Meter(torch.device("cpu"))
    other.load(meter.state())
    with other.phase("train", images=2):
        pass
    assert other.clock.phases["train"].images == 5
    assert other.flops["train"] == 10.0


def product(rows: int) -> None:
    torch.ones(rows, 3) @ torch.ones(3, 5)  # 2 * rows * 3 * 5 operations


def test_what_is_counted_is_without_what_the_cache_computes():
    meter = Meter(torch.device("cpu"))
    with meter.counting() as counted:
        for is_known in (False, True):
            _, flops = meter.encoded(4, lambda: torch.ones(4, 3) @ torch.ones(3, 5), is_known=is_known)
            assert flops == 2 * 4 * 3 * 5
        product(2)
    assert counted.flops == 2 * 2 * 3 * 5
    assert meter.encoded(4, lambda: torch.ones(4, 3), is_known=True)[1] is None  # nobody counts


def test_features_are_charged_to_the_phase_that_looks_at_test_images_or_to_encode():
    meter = Meter(torch.device("cpu"))
    meter.charge(3.0)
    with meter.phase("watch"), meter.phase("encode"):
        meter.charge(5.0)
    assert (meter.flops["encode"], meter.flops["watch"]) == (3.0, 5.0)


def test_nested_phases_add_up_at_any_moment():
    meter = Meter(torch.device("cpu"))
    started = time.perf_counter()
    with meter.phase("other"):
        with meter.phase("train"):
            time.sleep(0.01)
            meter.state()
        state = meter.state()
        elapsed = time.perf_counter() - started
    assert sum(phase["seconds"] for phase in state["clock"].values()) == pytest.approx(elapsed, abs=2e-3)
    assert state["clock"]["train"]["seconds"] >= 0.01


def test_of_like_pieces_the_first_is_counted_and_the_others_are_like_it():
    meter = Meter(torch.device("cpu"))
    with meter.sampled("task"):
        for rows in (4, 4, 2):  # images
            meter.sampling.begin()
            product(rows)
            meter.sampling.begin()  # what is inside belongs to it
            meter.sampling.end(rows)
            meter.sampling.end(rows)
    assert meter.flops["task"] == 2 * 10 * 3 * 5


def test_a_piece_that_is_broken_off_leaves_nothing_counting():
    meter = Meter(torch.device("cpu"))

    def stopped() -> None:
        with meter.sampled("task"):
            meter.sampling.begin()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with meter.sampled("task"):
        meter.sampling.begin()
        product(1)
        meter.sampling.end(1)
    product(100)
    assert meter.flops["task"] == 2 * 3 * 5


def test_the_account_adds_up_and_a_multiply_add_is_two_operations():
    meter = Meter(torch.device("cpu"))
    meter.flops |= {"train": 10.0, "task": 4.0, "evaluate": 6.0, "train_per_image": 5.0}
    account = meter.to_dict()
    assert account["flops"]["total"] == 20.0
    assert account["macs"]["train_per_image"] == 2.5
    assert account["energy"].keys() == {"cpu", "accelerator"}


def test_what_was_spent_up_to_each_task_goes_through_a_checkpoint():
    meter = Meter(torch.device("cpu"))
    meter.flops["train"] = 10.0
    meter.task_ended(0, {"parameters": {"total": 3}})
    other = Meter(torch.device("cpu"))
    other.load({**meter.state(), "by_task": meter.by_task})
    other.flops["train"] += 5.0
    other.task_ended(1, {"parameters": {"total": 4}})
    tasks = other.to_dict()["by_task"]
    assert [(task["task"], task["parameters"]["total"]) for task in tasks] == [(0, 3), (1, 4)]
    assert [task["flops"]["train"] for task in tasks] == [10.0, 15.0]


def test_a_checkpoint_from_before_energy_was_read_is_gone_on_from():
    meter = Meter(torch.device("cpu"))
    state = meter.state()
    del state["energy"]
    meter.load(state)
    assert meter.to_dict()["by_task"] == []
    assert meter.to_dict()["energy"] == {"cpu": None, "accelerator": None}
