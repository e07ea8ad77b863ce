"""A run on a CUDA device: data resident there, and no step that waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clbench import backbones, petl, strategies
from clbench.backbones import BackboneOptions
from clbench.data.batches import Batcher
from clbench.evaluate.meter import Meter
from clbench.records.resolving import resolve
from clbench.records.spec import RunOptions
from clbench.runs.checkpoint import Position
from clbench.runs.line import execute
from clbench.runs.loop import Loop
from clbench.seeds import Seeds
from clbench.streams import Places
from clbench.testing.generated import generated_stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_a_training_step_never_waits_for_the_device():
    device, seeds, stream = torch.device("cuda"), Seeds(0), generated_stream()
    backbone = backbones.create("vit-micro", BackboneOptions(weights="none")).to(device)
    strategy = strategies.get("lae")(batch_size=8)
    strategy.setup(backbone, petl.get("adapter")(), seeds)
    samples = stream.tasks[1].train
    batcher = Batcher(samples.images, backbone.preprocessing, "rrc-flip", device)
    loop = Loop(
        strategy,
        stream,
        batcher,
        seeds,
        Meter(device),
        RunOptions(precision="bf16"),
    )
    for task in stream.tasks:
        loop._begin(task)
    index, losses = torch.arange(8).numpy(), []
    for step in range(4):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # the first steps set things up
        try:
            batch = loop._batch(samples, index, Position(1, 0, step))
            losses.append(loop.step.learn(batch, loop.optimizer, done=step / 4))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


def test_a_run_in_bf16_ends_with_a_record(tmp_path: Path):
    spec = resolve(
        {
            "stream": {"train_per_class": 8, "test_per_class": 5},
            "strategy": {"name": "lae-adapter", "epochs": 1, "batch_size": 8},
            "run": {"device": "cuda", "precision": "bf16"},
        }
    )
    record = execute(spec, out=tmp_path, places=Places(None, tmp_path), command="")
    assert 0 <= record.read_json("metrics.json")["accuracy"] <= 1
    assert record.read_json("costs.json")["memory"]["accelerator"]["peak"] > 0
