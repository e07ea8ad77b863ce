"""Name what a comparison shows of a run, and how it is read from the record and written for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from clbench.evaluate.catalogue import Metric
from clbench.evaluate.former_names import current_name
from clbench.records.record import Record
from clbench.report.units import metric_value, percent, quantity, ratio, seconds


@dataclass(frozen=True)
class Column:
    """One number of a run: its key among the run's values, its heading, and how it is written."""

    key: str
    title: str
    show: Callable[[float, float], str]  # (mean, std) -> text; std is NaN where there is none
    unit: str = ""  # stands in the heading where the text does not hold it
    higher_is_better: bool | None = None  # None: it is not ranked

    @property
    def heading(self) -> str:
        """The title and the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


QUALITY = (
    Column("accuracy", "accuracy A_T", percent, "%", True),
    Column("average-incremental-accuracy", "average incremental accuracy", percent, "%", True),
    Column("forgetting", "forgetting", percent, "%", False),
    Column("learning-accuracy", "learning accuracy", percent, "%", True),
    Column("accuracy-masked", "masked accuracy", percent, "%", True),
    Column("ece", "ECE", percent, "%", False),
)
IF_KNOWN = (  # where any run of a comparison knows them
    Column("anytime-accuracy", "anytime accuracy", percent, "%", True),
    Column("stability-gap", "stability gap", percent, "%", False),
    Column("fwt", "forward transfer", percent, "%", True),
    Column("intransigence", "intransigence", percent, "%", False),
    Column("gap-to-joint", "gap to joint", percent, "%", False),
)
COST = (
    Column("parameters.trainable", "trainable parameters", quantity),
    Column("stored_bytes.total", "stored bytes", partial(quantity, unit="B")),
    Column("packed_bytes.total", "bit-packed bytes", partial(quantity, unit="B")),
    Column("flops.training", "training operations", partial(quantity, unit="FLOP")),
    Column("memory.process.peak", "peak memory", partial(quantity, unit="B")),
    Column("seconds", "wall time", seconds),
)
CAPACITY = Column("capacity_bytes.total", "stored bytes if full", partial(quantity, unit="B"))
DEPLOYED = (  # where some of the learners compute with few bits, or there are other forms of them
    Column("deployed_bytes", "bytes to deploy", partial(quantity, unit="B")),
    Column("bit_operations.evaluate_per_image", "bit operations an image", quantity),
    Column("speed.latency_ratio", "time of one image, learner = 1", ratio),
    Column("speed.throughput_ratio", "images a second, learner = 1", ratio),
    Column("calibration.seconds", "calibration time", seconds),
)
ABBREVIATIONS = {"auc", "bwt", "cka", "ece", "fwt", "nll"}  # in names of metrics
DELTA = "packed_bytes_by_kind.model-delta"
BITS = "bit_operations.evaluate_per_image"
BESIDE = "time.variants.seconds"  # what the learner itself has no part in
TRAINING = (
    "train",
    "task",
    "encode",
)  # accounts of what is computed to learn: steps, between them, frozen parts


def costs_shown(values: Iterable[Mapping[str, float]]) -> list[Column]:
    """Return the costs that a table of some runs shows.

    They are more where a memory is not full, and where there are variants.
    """
    values = list(values)
    stored = COST[1].key
    deployed = [column for column in DEPLOYED if any(DEPLOYED[-1].key in each for each in values)]
    has_room = any(each.get(CAPACITY.key, 0.0) > each.get(stored, math.nan) for each in values)
    usual = [
        column
        for each in COST
        for column in ([each, CAPACITY] if has_room and each.key == stored else [each])
    ]
    return [*usual, *deployed]


def quality_columns(metrics: Sequence[Metric]) -> tuple[Column, ...]:
    """Return the columns of chosen metrics, in their order; the usual ones keep their titles."""
    known = {column.key: column for column in (*QUALITY, *IF_KNOWN)}
    return tuple(known.get(each.name) or _column(each) for each in metrics)


def _column(metric: Metric) -> Column:
    def show(mean: float, std: float) -> str:
        return metric_value(metric.name, mean) if metric.unit else percent(mean, std)

    unit = "" if metric.unit else "%"
    words = [word.upper() if word in ABBREVIATIONS else word for word in metric.name.split("-")]
    return Column(metric.name, " ".join(words), show, unit, metric.higher_is_better)


def values_of(record: Record) -> dict[str, float]:
    """Return every metric and cost of a finished run by name, ``time.train.seconds`` say; NaN: not known."""
    metrics = metrics_of(record)
    account = record.read_json("costs.json")
    costs = flat(account)
    seconds_of = {key for key in costs if key.startswith("time.") and key.endswith(".seconds")}
    phases = [costs[key] for key in sorted(seconds_of - {BESIDE})]
    training = [costs[f"flops.{account}"] for account in TRAINING if f"flops.{account}" in costs]
    derived = {"seconds": phases, "flops.training": training}
    shipped = [costs.get(key, math.nan) for key in ("backbone_bytes.total", DELTA)]
    if BITS not in costs and record.spec.quant is None:  # of float: 32 bits times 32
        costs[BITS] = costs.get("flops.evaluate_per_image", math.nan) / 2 * 32**2
    by_task = [flat(each)["stored_bytes.total"] for each in account.get("by_task", [])]
    of_learner = {}
    if record.within is not None:  # it was not trained itself; what it took beside that says little
        learner = values_of(record.within)
        of_learner = {name: learner[name] for name in ("flops.training", "parameters.trainable")}
        of_learner |= {"seconds": math.nan, "memory.process.peak": math.nan}
    return {
        **metrics,
        **costs,
        **{name: sum(parts) if parts else math.nan for name, parts in derived.items()},
        "deployed_bytes": sum(shipped),  # backbone, and what has to be added to it to predict, packed
        "mean_stored_bytes": sum(by_task) / len(by_task) if by_task else math.nan,  # over the tasks
        **of_learner,
    }


def metrics_of(record: Record) -> dict[str, float]:
    """Return a finished run's metrics by the names that they have today; NaN: not known."""
    return {current_name(name): value for name, value in flat(record.read_json("metrics.json")).items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a tree by path, ``flops.train`` say; None becomes NaN, lists are left out."""
    leaves: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):  # such as costs by task
            leaves[f"{prefix}{key}"] = math.nan if value is None else float(value)
    return leaves
