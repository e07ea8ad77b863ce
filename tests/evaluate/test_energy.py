"""Show that energy is what the counters say, across a lap and a checkpoint, and None without counters."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from clbench.evaluate.energy import Energy

CPU = torch.device("cpu")


def make_zone(powercap: Path, number: str, name: str, microjoules: int) -> Path:
    """A counter as Linux shows it."""
    zone = powercap / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text("10000000\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone / "energy_uj"


def test_all_packages_count_and_what_lies_inside_one_does_not_count_again(tmp_path: Path) -> None:
    first, second = make_zone(tmp_path, "0", "package-0", 1_000_000), make_zone(tmp_path, "1", "package-1", 0)
    inside = make_zone(tmp_path, "0:0", "core", 0)
    energy = Energy(CPU, tmp_path)
    for counter in (first, second, inside):
        counter.write_text("3500000")
    energy.read()
    assert energy.joules == {"cpu": pytest.approx(2.5 + 3.5), "accelerator": None}


def test_a_counter_that_began_again_has_gone_on(tmp_path: Path) -> None:
    counter = make_zone(tmp_path, "0", "package-0", 9_000_000)
    energy = Energy(CPU, tmp_path)
    counter.write_text("500000")
    energy.read()
    energy.read()
    assert energy.joules["cpu"] == pytest.approx(1.5)


def test_what_was_taken_before_a_checkpoint_is_added(tmp_path: Path) -> None:
    counter = make_zone(tmp_path, "0", "package-0", 0)
    energy = Energy(CPU, tmp_path)
    energy.go_on_from({"cpu": 7.0, "accelerator": None})
    counter.write_text("1000000")
    energy.read()
    assert energy.joules["cpu"] == pytest.approx(8.0)


def test_a_part_that_was_not_measured_leaves_the_whole_unknown(tmp_path: Path) -> None:
    make_zone(tmp_path, "0", "package-0", 0)
    energy = Energy(CPU, tmp_path)
    energy.go_on_from({"cpu": None, "accelerator": None})
    energy.read()
    assert energy.joules["cpu"] is None


def test_without_counters_nothing_is_known(tmp_path: Path) -> None:
    energy = Energy(CPU, tmp_path)
    energy.read()
    assert energy.joules == {"cpu": None, "accelerator": None}


def test_an_accelerator_is_found_by_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter((5_000, 7_500))  # millijoules
    library = ModuleType("pynvml")
    library.NVMLError = RuntimeError  # type: ignore[attr-defined]
    library.nvmlInit = lambda: None  # type: ignore[attr-defined]
    library.nvmlDeviceGetHandleByUUID = {"GPU-one": "handle"}.__getitem__  # type: ignore[attr-defined]
    library.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(shown)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="one"))
    energy = Energy(torch.device("cuda:3"), tmp_path)
    energy.read()
    assert energy.joules == {"cpu": None, "accelerator": 2.5}
