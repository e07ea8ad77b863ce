"""A terminal sees where a run is; anything else gets plain lines."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from clbench.cli.live import Live, accuracy_row
from clbench.records.resolving import resolve


def drawn(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a run of 2 tasks, of 2 epochs of 4 steps of 10 images, a step a second, draws."""
    seconds = iter(range(1000))
    monkeypatch.setattr("clbench.cli.live.time.monotonic", lambda: now)
    now = 0.0
    file = StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=120, color_system=None)
    with Live(console) as live:
        live.run_started(resolve({}), Path("runs/one"), 2)
        live.noted("not read in tree: 3 [links]")
        for task in range(2):
            live.task_started(task, ["a", "b"], 40)
            for epoch in range(2):
                live.epoch_started(epoch, 2, 0, 4)
                for _ in range(4):
                    now = float(next(seconds)) + 1
                    live.step_done(10, torch.tensor(0.5))
            live.evaluation_started(20 * (task + 1))
            live.batch_predicted(20 * (task + 1))
            live.task_finished(task, [0.5] * (task + 1))
    return file.getvalue()


def test_a_terminal_sees_where_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(True, monkeypatch)
    assert "task 1/2 epoch 1/2" in seen
    assert "loss 0.500 · 10 images/s · 0:15 left" in seen  # 16 steps of a second, after the first
    assert "loss 0.500 · 10 images/s · 0:08 left" in seen  # one of two tasks is over
    assert "task 2/2 evaluation" in seen
    assert "task  2/2  average  50.0 %    50   50" in seen


def test_a_file_gets_one_plain_line_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(False, monkeypatch).splitlines() == [
        "on cpu -> runs/one",
        "  not read in tree: 3 [links]",
        "task  1/2  average  50.0 %    50",
        "task  2/2  average  50.0 %    50   50",
    ]


def test_an_unknown_accuracy_is_no_zero() -> None:
    assert accuracy_row([float("nan"), 0.5]) == "average  50.0 %     -   50"
    assert accuracy_row([float("nan")]) == "not evaluated: nothing learnt yet"


def test_of_many_accuracies_the_first_and_the_last_are_shown() -> None:
    assert "..." not in accuracy_row([0.5] * 20)
    shown = accuracy_row([0.25] * 500 + [0.75] * 500)
    assert shown == " ".join(["average  50.0 % ", *["  25"] * 10, " ...", *["  75"] * 10])
