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
