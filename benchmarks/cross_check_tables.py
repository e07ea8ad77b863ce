"""Make the tables of docs/cross-checks.md, one a function; the first row of each is its header."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import peer_formulas as peers
import timm
import torch
from in_avalanche import NAMES, Log, avalanche_macs, in_avalanche
from matrices import COLUMNS, EARLY, MATRICES, SIZES, UNEQUAL, UNTRAINED, Matrix, log_of, ours
from torch import nn

from clbench.evaluate.flops import count_flops

DIGITS = Path(__file__).with_name("results") / "cross_checks_digits.csv"
AVALANCHE = "Avalanche 0.6.0 (run)"
BRIDGE = "clbench in Avalanche's loop (run)"

Table = list[list[str]]


def row(title: str, values: Iterable[float], truth: Sequence[float]) -> list[str]:
    """Return a row of numbers, in bold what is not the truth."""
    pairs = zip((f"{value + 0.0:.4f}" for value in values), truth, strict=True)
    return [title, *(cell if cell == f"{true + 0.0:.4f}" else f"**{cell}**" for cell, true in pairs)]


def of_matrices(name: str, formulas: Mapping[str, Callable[[Matrix], float]]) -> Table:
    """Return a table of one metric on every matrix, a row a library."""
    logs = [log_of(matrix) for matrix in MATRICES.values()]
    said = [in_avalanche(log)[-1] for log in logs]
    truth = [ours(log)[name] for log in logs]
    return [
        ["", *MATRICES],
        row("**clbench**", truth, truth),
        row(BRIDGE, (each[f"clbench/{name}"] for each in said), truth),
        row(AVALANCHE, (each[NAMES[name]] for each in said), truth),
        *(row(title, map(formula, MATRICES.values()), truth) for title, formula in formulas.items()),
    ]


def forgetting() -> Table:
    """Return the table of forgetting."""
    formulas = {
        "Mammoth": peers.mammoth_forgetting,
        "PILOT": peers.pilot_forgetting,
        "Renate": peers.renate_forgetting,
        "LibContinual": peers.libcontinual_forgetting,
        "Continuum 265a985": peers.old_continuum_forgetting,
        "Continuum c14e70f": peers.continuum_forgetting,
    }
    return of_matrices("forgetting", formulas)


def backward() -> Table:
    """Return the table of backward transfer; ours has two, each with its paper."""
    formulas = {
        "Mammoth, Renate": peers.gem_bwt,
        "LibContinual, Continuum 265a985": peers.old_continuum_bwt,
        "Continuum c14e70f": peers.continuum_bwt,
    }
    table = of_matrices("bwt", formulas)
    of_all_steps = [ours(log_of(matrix))["bwt-d"] for matrix in MATRICES.values()]
    return [*table, row("**clbench**, `bwt-d`", of_all_steps, of_all_steps)]


def forward() -> Table:
    """Return the table of forward transfer, on tasks that share their classes."""
    log = log_of(EARLY, untrained=UNTRAINED)
    truth = [ours(log)["fwt"]]
    said = in_avalanche(log, ahead=True)[-1]
    formulas = {
        "Mammoth, Renate": peers.gem_fwt,
        "Continuum 265a985": peers.old_continuum_fwt,
        "Continuum c14e70f": peers.continuum_fwt,
    }
    return [
        ["", "early peak"],
        row("**clbench**", truth, truth),
        row(BRIDGE, [said["clbench/fwt"]], truth),
        row(AVALANCHE, [said[NAMES["fwt"]]], truth),
        *(row(title, [formula(EARLY, UNTRAINED)], truth) for title, formula in formulas.items()),
    ]


def averages() -> Table:
    """Return accuracy at the end and on the way where tasks have 60 and 20 test images."""
    log = log_of(UNEQUAL, SIZES)
    mine, steps = ours(log), in_avalanche(log)
    names = ("accuracy", "average-incremental-accuracy")
    macro, micro = [mine[name] for name in names], [mine[f"{name}-micro"] for name in names]
    on_the_way = [step[NAMES["accuracy"]] for step in steps]
    return [
        ["", "after the last task", "average over steps"],
        row("**clbench**, over tasks", macro, macro),
        row("**clbench**, over images (`-micro`)", micro, micro),
        row("Avalanche 0.6.0, `StreamAccuracy` (run)", [on_the_way[-1], float(np.mean(on_the_way))], micro),
        row("Mammoth, Renate `average_accuracy`", peers.means_of_tasks(UNEQUAL), macro),
        row("PyCIL, PILOT, Renate `micro_average_accuracy`", peers.means_of_images(UNEQUAL, SIZES), micro),
    ]


def loops() -> Table:
    """Return forgetting on the four tasks when the same predictions are made in other loops."""
    log = log_of(MATRICES["four tasks"])
    truth = [ours(log)["forgetting"]] * 3
    said = [
        step[-1]
        for step in (in_avalanche(log), in_avalanche(log, train_too=True), in_avalanche(log, part_size=5))
    ]
    return [
        ["", "test stream", "then the training stream, too", "online, in parts of 5"],
        row(BRIDGE, (each["clbench/forgetting"] for each in said), truth),
        row(AVALANCHE, (each[NAMES["forgetting"]] for each in said), truth),
    ]


def decades() -> Table:
    """Return what PyCIL's formula makes of a learner that never forgets, in percentage points."""
    cut = {
        "100 classes, 10 a task": [10] * 10,
        "100 classes, 5 a task": [5] * 20,
        "200 classes, 10 a task": [10] * 20,
        "100 classes, 20 a task": [20] * 5,
        "50 classes, then 10 a task": [50, *[10] * 5],
    }
    table = [["classes", "forgetting", "PyCIL"]]
    for title, sizes in cut.items():
        known = 95.0 - np.arange(len(sizes))  # percent, the same after every task
        lines = np.tile(np.repeat(known, sizes), (len(sizes), 1))
        try:
            value = f"{peers.pycil_forgetting(lines, np.cumsum(sizes).tolist()) + 0.0:.2f}"
        except ValueError:
            value = "ValueError"
        table.append([title, "0.00", value if value == "0.00" else f"**{value}**"])
    return table


def digits() -> Table:
    """Return two runs on the digits, in our loop and the same predictions in Avalanche's."""
    table = [["", "**clbench**", BRIDGE, AVALANCHE]]
    for strategy, log in digit_logs().items():
        mine, said = ours(log), in_avalanche(log)[-1]
        for name, theirs in {
            "accuracy": None,
            "accuracy-micro": "accuracy",
            "forgetting": "forgetting",
            "bwt": "bwt",
        }.items():
            values = [mine[name], said[f"clbench/{name}"], *([said[NAMES[theirs]]] if theirs else [])]
            cells = row(f"{strategy}, `{name}`", values, [mine[name]] * len(values))
            table.append(cells if theirs else [*cells, "–"])
    return table


def digit_logs() -> dict[str, Log]:
    """Return the predictions of the runs on the digits by strategy."""
    with DIGITS.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {
        name: {
            column: np.array([int(line[column]) for line in lines if line["strategy"] == name])
            for column in COLUMNS
        }
        for name in dict.fromkeys(line["strategy"] for line in lines)
    }


def macs() -> Table:
    """Return multiply-adds of an image through three networks, counted on no device."""
    with torch.device("meta"):
        networks = {
            "ViT-B/16, 224 px": (timm.create_model("vit_base_patch16_224"), torch.empty(1, 3, 224, 224)),
            "ResNet-18, 224 px": (timm.create_model("resnet18"), torch.empty(1, 3, 224, 224)),
            "convolution 3 × 3, 3 to 64, 32 px": (nn.Conv2d(3, 64, 3, padding=1), torch.empty(1, 3, 32, 32)),
        }
    table = [["million MACs", "**clbench**", AVALANCHE, "too low by"]]
    for name, (network, images) in networks.items():
        network.eval().requires_grad_(False)
        mine = count_flops(partial(network, images)) / 2
        theirs = avalanche_macs(network, images)
        table.append([name, f"{mine / 1e6:,.2f}", f"**{theirs / 1e6:,.2f}**", f"{mine / theirs:.3g} times"])
    return table


TABLES: dict[str, Callable[[], Table]] = {
    each.__name__: each for each in (forgetting, backward, forward, averages, loops, digits, decades, macs)
}
