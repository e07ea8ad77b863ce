"""What a run spends is counted, and counted once."""

from __future__ import annotations

import torch

from clbench.evaluate.meter import Meter


def test_flops_are_counted_the_first_time_a_key_is_met():
    meter, calls = Meter(torch.device("cpu")), []

    def product() -> None:
        calls.append(1)
        torch.ones(4, 3) @ torch.ones(3, 5)

    values = [meter.flops_per_image("train", key=7, num_images=4, once=product) for _ in range(3)]
    assert values == [2 * 3 * 5] * 3
    assert len(calls) == 1


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


def test_work_beside_the_steps_is_counted_without_what_the_cache_computes():
    meter = Meter(torch.device("cpu"))

    def at_the_end() -> None:
        meter.encoded("key", 4, lambda: torch.ones(4, 3) @ torch.ones(3, 5))  # 120, once counted, once known
        meter.encoded("key", 4, lambda: torch.ones(4, 3) @ torch.ones(3, 5))
        torch.ones(2, 3) @ torch.ones(3, 7)

    meter.spent_on("task", at_the_end)
    assert meter.flops["encode"] == 2 * (2 * 4 * 3 * 5)
    assert meter.flops["task"] == 2 * 2 * 3 * 7


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
    meter.task_ended({"parameters": {"total": 3}})
    other = Meter(torch.device("cpu"))
    other.load(meter.state())
    other.flops["train"] += 5.0
    other.task_ended({"parameters": {"total": 4}})
    tasks = other.to_dict()["by_task"]
    assert [task["parameters"]["total"] for task in tasks] == [3, 4]
    assert [task["flops"]["train"] for task in tasks] == [10.0, 15.0]
